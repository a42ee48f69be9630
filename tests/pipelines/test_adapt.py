"""LoRA adapters: a real engine answers with one as it does with a model that it was merged into; and refusals."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest

from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, ResolveResult
from slm_contract.specs import AcquireSpec, AdaptSpec, ConvertSpec, ResolveSpec
from slm_operator.core.placement import Program
from slm_operator.core.runtimes.llama_cpp import build_command
from slm_operator.core.runtimes.order import Order
from slm_pipelines.errors import BadInput
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import acquire, adapt, convert, resolve
from slm_pipelines.store import Store
from slm_pipelines.tools.llama_cpp import Engine
from tests.support.adapters import PREFIX, load_file, merge, write_adapter, write_matrices
from tests.support.engine import engine
from tests.support.models import write_model
from tests.support.servers import run_server
from tests.support.stored import store_folder

__all__ = ["engine"]

REPORTER = Reporter("test")
QUERY = "model.layers.0.self_attn.q_proj"
PROMPT = [5, 42, 7, 300, 12, 9]
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "dtype": "f32"},
    "qwen3": {"family": "qwen3", "dtype": "f32"},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run_adapt(store: Store, adapter: Path, model: Path) -> ArtifactResult:
    spec = AdaptSpec(adapter=store_folder(store, adapter), model=store_folder(store, model), store=str(store.folder))
    return adapt.run(spec, REPORTER)


def run_convert(store: Store, model: Path) -> Path:
    spec = ConvertSpec(model=store_folder(store, model), store=str(store.folder))
    return store.blob_path(convert.run(spec, REPORTER).blob)


def continue_greedily(address: str, **more: Any) -> list[int]:
    """The most likely 24 tokens after the prompt."""
    body = {"prompt": PROMPT, "n_predict": 24, "temperature": 0, "ignore_eos": True, "return_tokens": True, **more}
    answer = httpx.post(f"{address}/completion", json=body, timeout=60).raise_for_status().json()
    return list(answer["tokens"])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}], ids=["plain", "rank-stabilized"])
def test_an_engine_with_an_adapter_answers_as_with_the_merged_model(
    kind: str, settings: dict[str, Any], store: Store, engine: Engine, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", **MODELS[kind])
    adapter = write_adapter(tmp_path / "adapter", model, **settings)
    base, merged = run_convert(store, model), run_convert(store, merge(tmp_path / "merged", model, adapter))
    lora = store.blob_path(run_adapt(store, adapter, model).blob)
    with run_server(engine, base, tmp_path, "--lora-scaled", f"{lora}:0") as address:
        plain = continue_greedily(address, lora=[{"id": 0, "scale": 0.0}])
        adapted = continue_greedily(address, lora=[{"id": 0, "scale": 1.0}])
        assert continue_greedily(address, lora=[{"id": 0, "scale": 0.0}]) == plain
    with run_server(engine, merged, tmp_path) as address:
        expected = continue_greedily(address)
    assert (adapted == expected, adapted == plain) == (True, False)


@pytest.fixture
def loaded(store: Store, tmp_path: Path) -> tuple[Path, str]:
    """A model and an adapter of it, as files that an engine loads."""
    model = write_model(tmp_path / "model", dtype="f32")
    lora = run_adapt(store, write_adapter(tmp_path / "adapter", model), model)
    return run_convert(store, model), str(store.blob_path(lora.blob))


OFF, ON = [{"id": 0, "scale": 0.0}], [{"id": 0, "scale": 1.0}]
OTHER = [(11 * number + 3) % 400 for number in range(300)]
LONG = [(7 * number) % 400 for number in range(300)]


def test_an_engine_never_goes_on_with_what_another_adapter_computed(
    loaded: tuple[Path, str], engine: Engine, tmp_path: Path
) -> None:
    words = build_command(Program(()), Order("m", "a", 1024, 1, 2, "h", adapters={"first": loaded[1]}))
    own = words[words.index("--lora-scaled") : words.index("--cache-ram") + 2]
    with run_server(engine, loaded[0], tmp_path, "--parallel", "1", *own) as address:
        plain, adapted = (continue_greedily(address, prompt=LONG, lora=lora) for lora in (OFF, ON))
        continue_greedily(address, prompt=OTHER, lora=OFF)
        assert continue_greedily(address, prompt=LONG, lora=OFF) == plain
        continue_greedily(address, prompt=OTHER, lora=ON)
        assert continue_greedily(address, prompt=LONG, lora=ON) == adapted
    assert plain != adapted


def test_prompts_that_are_remembered_outside_of_slots_would_mix_adapters_up(
    loaded: tuple[Path, str], engine: Engine, tmp_path: Path
) -> None:
    """Why engines get ``--cache-ram 0``: once this fails, they need it no more."""
    words = ("--parallel", "1", "--lora-scaled", f"{loaded[1]}:0")
    with run_server(engine, loaded[0], tmp_path, *words) as address:
        plain, _ = (continue_greedily(address, prompt=LONG, lora=lora) for lora in (OFF, ON))
        continue_greedily(address, prompt=OTHER, lora=OFF)
        assert continue_greedily(address, prompt=LONG, lora=OFF) != plain


def test_a_request_that_says_nothing_would_go_on_with_what_another_adapter_computed(
    loaded: tuple[Path, str], engine: Engine, tmp_path: Path
) -> None:
    """Why the gateway says which adapter also where none is wanted: once this fails, it need not."""
    words = ("--parallel", "1", "--lora-scaled", f"{loaded[1]}:0", "--cache-ram", "0")
    with run_server(engine, loaded[0], tmp_path, *words) as address:
        plain, _ = (continue_greedily(address, prompt=LONG, lora=lora) for lora in (OFF, ON))
        assert continue_greedily(address, prompt=LONG) != plain


def test_an_adapter_that_is_not_to_be_applied_at_first_is_applied_to_requests_that_say_nothing(
    loaded: tuple[Path, str], engine: Engine, tmp_path: Path
) -> None:
    """Why engines get ``--lora-scaled FILE:0``: once this fails, ``--lora-init-without-apply`` does."""
    words = ("--lora", loaded[1], "--lora-init-without-apply")
    with run_server(engine, loaded[0], tmp_path, *words) as address:
        assert continue_greedily(address, cache_prompt=False) == continue_greedily(address, lora=ON, cache_prompt=False)


@pytest.mark.parametrize("kind", MODELS)
def test_an_adapter_for_a_gguf_model_is_that_for_its_safetensors(kind: str, store: Store, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **MODELS[kind])
    adapter = write_adapter(tmp_path / "adapter", model)
    (tmp_path / "gguf").mkdir()
    shutil.copyfile(run_convert(store, model), tmp_path / "gguf" / "model.gguf")
    assert run_adapt(store, adapter, tmp_path / "gguf").blob == run_adapt(store, adapter, model).blob


def test_the_result_is_a_lora_of_its_models_architecture(store: Store, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **MODELS["qwen3"])
    result = run_adapt(store, write_adapter(tmp_path / "adapter", model, lora_alpha=16), model)
    reader = gguf.GGUFReader(store.blob_path(result.blob))
    told = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert told == {
        "general.architecture": "qwen3", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 16.0,
    }  # fmt: skip
    assert {each.name for each in reader.tensors if each.name.startswith("blk.0.attn_q")} == {
        "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b",
    }  # fmt: skip


def test_the_same_adapter_is_another_file_for_another_model(store: Store, tmp_path: Path) -> None:
    model, other = write_model(tmp_path / "a", seed=1, dtype="f32"), write_model(tmp_path / "b", seed=2, dtype="f32")
    adapter = write_adapter(tmp_path / "adapter", model)
    first, second, third = (run_adapt(store, adapter, each) for each in (model, model, other))
    assert (first.cached, second.cached, third.cached) == (False, True, False)
    assert first.manifest == second.manifest != third.manifest
    assert store.manifest(first.manifest).lineage["dev.slm.tool"] == adapt.TOOL


def without_layers(folder: Path) -> Path:
    return write_model(folder, dtype="f32", layers=1)


def with_narrow_heads(folder: Path) -> Path:
    return write_model(folder, dtype="f32", head_dim=32)


ADVICE = "name the model that the adapter was trained on."
MISMATCHES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "too few layers": (
        without_layers,
        f"The adapter changes model.layers.1.mlp.down_proj.weight, which the model does not have: {ADVICE}",
    ),
    "other shapes": (
        with_narrow_heads,
        "The adapter changes model.layers.0.self_attn.k_proj.weight as [128, 256], but the model's is [64, 256]: "
        + ADVICE,
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_an_adapter_of_another_model_is_refused(case: str, store: Store, tmp_path: Path) -> None:
    write_other, message = MISMATCHES[case]
    adapter = write_adapter(tmp_path / "adapter", write_model(tmp_path / "model", dtype="f32"))
    with pytest.raises(BadInput) as failure:
        run_adapt(store, adapter, write_other(tmp_path / "other"))
    assert (failure.value.reason, failure.value.message) == (Reason.ADAPTER_MISMATCH, message)


def test_a_model_is_no_adapter(store: Store, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    with pytest.raises(BadInput) as failure:
        run_adapt(store, model, model)
    assert failure.value.reason is Reason.FILE_NOT_FOUND
    assert "name an SLMModel whose status.format is lora" in failure.value.message


def resolve_folder(folder: Path) -> ResolveResult:
    spec = ResolveSpec.model_validate({"source": {"path": {"path": str(folder)}}})
    return resolve.run(spec, REPORTER)


def test_an_adapters_two_files_are_taken_and_nothing_beside_them(store: Store, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", dtype="f32")
    folder = write_adapter(tmp_path / "adapter", model)
    shutil.copyfile(model / "tokenizer.json", folder / "tokenizer.json")
    (folder / "training_args.bin").write_bytes(b"pickled")
    found = resolve_folder(folder)
    taken = ["adapter_config.json", "adapter_model.safetensors"]
    parameters = sum(matrix.size for matrix in load_file(folder / "adapter_model.safetensors").values())
    assert (found.format, found.architecture, found.rank, found.parameters) == ("lora", "LORA", 4, parameters)
    assert ([file.name for file in found.files], found.context_length, found.shape) == (taken, 0, None)
    source = {"path": {"path": str(folder)}}
    files = [file.model_dump() for file in found.files]
    spec = {"source": source, "revision": found.revision, "files": files, "store": str(store.folder)}
    kept = acquire.run(AcquireSpec.model_validate(spec), REPORTER)
    assert sorted(store.files(kept.manifest)) == taken


PLAIN = "only plain LoRA can be served. Train it without, or merge it into its model."
SETTINGS: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "another method": ({"peft_type": "IA3"}, Reason.UNSUPPORTED_ADAPTER, f"has peft_type 'IA3': {PLAIN}"),
    "DoRA": ({"use_dora": True}, Reason.UNSUPPORTED_ADAPTER, f"sets use_dora to True: {PLAIN}"),
    "whole modules": (
        {"modules_to_save": ["lm_head"]}, Reason.UNSUPPORTED_ADAPTER, f"sets modules_to_save to ['lm_head']: {PLAIN}",
    ),
    "biases": ({"bias": "all"}, Reason.UNSUPPORTED_ADAPTER, f"sets bias to 'all': {PLAIN}"),
    "ranks by layer": (
        {"rank_pattern": {"q_proj": 8}}, Reason.UNSUPPORTED_ADAPTER, f"sets rank_pattern to {{'q_proj': 8}}: {PLAIN}",
    ),
    "alphas by layer": (
        {"alpha_pattern": {"q_proj": 8}}, Reason.UNSUPPORTED_ADAPTER, f"sets alpha_pattern to {{'q_proj': 8}}: {PLAIN}",
    ),
    "other weights at the beginning": (
        {"init_lora_weights": "pissa"}, Reason.UNSUPPORTED_ADAPTER, f"sets init_lora_weights to 'pissa': {PLAIN}",
    ),
    "no rank": ({"r": None}, Reason.INVALID_CONFIG, "has r None where a whole number from 1 to"),
    "no strength": ({"lora_alpha": 0}, Reason.INVALID_CONFIG, "has lora_alpha 0 where a positive number up to"),
    "another rank than its matrices": (
        {"r": 8}, Reason.INVALID_SAFETENSORS,
        "has matrices of [4, 768] and [256, 4] for model.layers.0.mlp.down_proj.weight, which are none of rank 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_would_be_lost_are_refused_before_a_weight_is_fetched(case: str, tmp_path: Path) -> None:
    settings, reason, words = SETTINGS[case]
    model = write_model(tmp_path / "model", dtype="f32")
    with pytest.raises(BadInput) as failure:
        resolve_folder(write_adapter(tmp_path / "adapter", model, **settings))
    assert (failure.value.reason, words in failure.value.message) == (reason, True), failure.value.message


A, B = np.zeros((4, 64), np.float32), np.zeros((64, 4), np.float32)
TRAINED = "only LoRA of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj can be served. Train it on those"
MATRICES: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "the output": (
        {f"{PREFIX}lm_head.lora_A.weight": A}, Reason.UNSUPPORTED_ADAPTER,
        f"holds base_model.model.lm_head.lora_A.weight: {TRAINED}",
    ),
    "the embedding": (
        {f"{PREFIX}model.embed_tokens.lora_embedding_A": A}, Reason.UNSUPPORTED_ADAPTER,
        f"holds base_model.model.model.embed_tokens.lora_embedding_A: {TRAINED}",
    ),
    "half a pair": (
        {f"{PREFIX}{QUERY}.lora_A.weight": A}, Reason.INVALID_SAFETENSORS, f"has no lora_B for {QUERY}.weight",
    ),
    "matrices of one dimension": (
        {f"{PREFIX}{QUERY}.lora_A.weight": A[0], f"{PREFIX}{QUERY}.lora_B.weight": B}, Reason.INVALID_SAFETENSORS,
        f"has matrices of [64] and [64, 4] for {QUERY}.weight, which are none of rank 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MATRICES)
def test_matrices_that_no_engine_could_apply_are_refused_before_they_are_fetched(case: str, tmp_path: Path) -> None:
    matrices, reason, words = MATRICES[case]
    with pytest.raises(BadInput) as failure:
        resolve_folder(write_matrices(tmp_path / "adapter", matrices))
    assert (failure.value.reason, words in failure.value.message) == (reason, True), failure.value.message


def test_a_pickled_adapter_is_refused(tmp_path: Path) -> None:
    folder = write_matrices(tmp_path / "adapter", {f"{PREFIX}{QUERY}.lora_A.weight": A})
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadInput) as failure:
        resolve_folder(folder)
    assert failure.value.reason is Reason.UNSAFE_FORMAT
    assert "The source offers only pickled weights (adapter_model.bin)" in failure.value.message


def test_an_adapter_without_its_settings_is_refused(tmp_path: Path) -> None:
    folder = write_matrices(tmp_path / "adapter", {f"{PREFIX}{QUERY}.lora_A.weight": A})
    (folder / "adapter_config.json").unlink()
    with pytest.raises(BadInput) as failure:
        resolve_folder(folder)
    assert failure.value.reason is Reason.FILE_NOT_FOUND
    assert "without adapter_config.json, which says how strongly it changes a model" in failure.value.message
