"""Which files make up a model: resolve and acquire must agree, whatever else lies in the repository."""

import os
from pathlib import Path
from typing import Any

import pytest

from slm_contract.reasons import Reason
from slm_contract.specs import ModelFile, Source
from slm_pipelines.errors import BadInput
from slm_pipelines.listing import Listing
from slm_pipelines.progress import Reporter
from slm_pipelines.selection import select_files
from slm_pipelines.steps import acquire
from slm_pipelines.store import Store
from tests.support.fetching import REPO, acquire_spec, hub, run_acquire, run_resolve, source
from tests.support.hub import Hub
from tests.support.models import write_model

__all__ = ["hub"]

SMALL = ["config.json", "tokenizer.json"]
INDEX = "model.safetensors.index.json"
SHARDS = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'


def select(*names: str, **patterns: list[str]) -> list[str]:
    files = tuple(ModelFile(name=name, size_bytes=1) for name in names)
    chosen = Source.model_validate({"hugging_face": {"repo": "lab/tiny", **patterns}})
    return [file.name for file in select_files(Listing("r", files, ""), chosen, lambda _: SHARDS)]


def refusal(*names: str, **patterns: list[str]) -> tuple[Reason, str]:
    with pytest.raises(BadInput) as failure:
        select(*names, **patterns)
    return failure.value.reason, failure.value.message


def test_only_names_at_the_top_are_taken_by_default() -> None:
    taken = [*SMALL, "preprocessor_config.json", "processor_config.json", "model.safetensors"]
    assert select(*taken, "onnx/model.safetensors", "gguf/model.gguf", "README.md", "original/config.json") == taken


def test_weights_that_the_index_does_not_name_are_left_out() -> None:
    shards = ["model-1.safetensors", "model-2.safetensors"]
    assert select(*SMALL, INDEX, *shards, "consolidated.safetensors") == [*SMALL, INDEX, *shards]
    everything = select(*SMALL, INDEX, *shards, "consolidated.safetensors", "README.md", allow_patterns=["*"])
    assert everything == [*SMALL, INDEX, *shards, "README.md"]


def test_patterns_for_weights_do_not_lose_the_files_they_need() -> None:
    taken = [*SMALL, "chat_template.jinja", "model.safetensors"]
    assert select(*taken, "README.md", allow_patterns=["*.safetensors"]) == taken
    assert select(*taken, ignore_patterns=["*.jinja"]) == [*SMALL, "model.safetensors"]


def test_one_of_two_tokenizers_can_be_ignored() -> None:
    taken = ["config.json", "tokenizer.model", "model.safetensors"]
    assert select(*taken, "tokenizer.json", ignore_patterns=["tokenizer.json"]) == taken


def test_an_adapter_is_taken_without_what_else_its_training_left_and_a_model_without_its_adapter() -> None:
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert select(*adapter, "v_head.safetensors", *SMALL, ignore_patterns=["v_head*"]) == adapter
    assert select(*adapter, *SMALL, "model.safetensors") == [*SMALL, "model.safetensors"]


def test_one_gguf_in_a_folder_can_be_named() -> None:
    assert select("a/q8.gguf", "a/q4.gguf", allow_patterns=["*q8.gguf"]) == ["a/q8.gguf"]


REFUSALS: dict[str, tuple[list[str], dict[str, list[str]], Reason, str]] = {
    "a shard that patterns leave out": (
        [*SMALL, INDEX, "model-1.safetensors", "model-2.safetensors"],
        {"allow_patterns": ["model-1*"]},
        Reason.FILE_NOT_FOUND,
        "names model-2.safetensors, which the patterns leave out: let them match every shard.",
    ),
    "a shard that is not there": (
        [*SMALL, INDEX, "model-1.safetensors"], {}, Reason.FILE_NOT_FOUND,
        "names model-2.safetensors, which the source does not hold.",
    ),
    "a tokenizer that is ignored": (
        [*SMALL, "model.safetensors"], {"ignore_patterns": ["token*"]}, Reason.FILE_NOT_FOUND,
        "ignorePatterns leave out tokenizer.json, without which safetensors cannot be converted: let it through.",
    ),
    "weights only in folders": (
        [*SMALL, "onnx/model.safetensors"], {}, Reason.FILE_NOT_FOUND,
        "The source holds weights only in folders (onnx/model.safetensors): name one GGUF file",
    ),
    "weights that patterns leave out": (
        [*SMALL, "model.safetensors"], {"allow_patterns": ["*.md"]}, Reason.FILE_NOT_FOUND,
        "allowPatterns and ignorePatterns leave no weights",
    ),
    "an adapter beside what else its training left": (
        ["adapter_config.json", "adapter_model.safetensors", "v_head.safetensors", *SMALL], {}, Reason.INVALID_SPEC,
        "takes v_head.safetensors beside adapter_model.safetensors: leave either out with ignorePatterns.",
    ),
    "pickles of any spelling": (
        [*SMALL, "a.safetensors", "x/a.PKL"], {"allow_patterns": ["*"]}, Reason.UNSAFE_FORMAT,
        "The choice of files takes x/a.PKL, which is pickled and can run code when it is read",
    ),
    "only pickles of any spelling": (["a.PTH"], {}, Reason.UNSAFE_FORMAT, "offers only pickled weights (a.PTH)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_choice_that_makes_no_model_is_refused(case: str) -> None:
    names, patterns, reason, words = REFUSALS[case]
    found, message = refusal(*names, **patterns)
    assert (found, words in message) == (reason, True), message


def test_a_model_in_many_shards_is_fetched_as_it_was_counted(hub: Hub, tmp_path: Path) -> None:
    repo = hub.root / REPO
    for path in repo.iterdir():
        path.unlink()
    write_model(repo, vocab=512, layers=6, shards=40)
    (repo / "onnx").mkdir()
    (repo / "onnx/decoder.safetensors").write_bytes(os.urandom(1 << 20))
    (repo / "consolidated.safetensors").write_bytes(os.urandom(1 << 20))
    found = run_resolve(hub)
    assert found.files == []
    done = run_acquire(hub, tmp_path / "store")
    assert (done.file_count, done.size_bytes) == (found.file_count, found.size_bytes)
    names = set(Store(tmp_path / "store").files(done.manifest))
    assert names.isdisjoint({"onnx/decoder.safetensors", "consolidated.safetensors"})


def acquire_refusal(hub: Hub, store: Path, **fields: Any) -> tuple[Reason, str]:
    spec = acquire_spec(hub, store, run_resolve(hub), **fields)
    with pytest.raises(BadInput) as failure:
        acquire.run(spec, Reporter("acquire"))
    assert not (store / "recipes").exists() or not list((store / "recipes").iterdir())
    return failure.value.reason, failure.value.message


def test_a_spec_that_names_a_pickle_is_refused(hub: Hub, tmp_path: Path) -> None:
    files = [{"name": "pytorch_model.bin", "sizeBytes": 9}]
    reason, message = acquire_refusal(hub, tmp_path / "store", files=files)
    assert reason is Reason.UNSAFE_FORMAT
    assert "takes pytorch_model.bin, which is pickled" in message


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_spec_that_names_its_files_is_held_to_the_licence_too(hub: Hub, tmp_path: Path, place: str) -> None:
    chosen = source(hub) if place == "hub" else {"path": {"path": str(hub.root / REPO)}}
    reason, message = acquire_refusal(hub, tmp_path / "store", source=chosen, licenseAllow=["mit"])
    assert reason is Reason.LICENSE_NOT_ALLOWED
    assert "its licence is apache-2.0, and license.allow holds only mit" in message


def test_a_pin_is_for_files_that_are_taken(hub: Hub) -> None:
    pin = {"files": {"README.md": "sha256:" + "A" * 64}}
    with pytest.raises(BadInput) as failure:
        run_resolve(hub, pin=pin)
    assert failure.value.reason is Reason.FILE_NOT_FOUND
    assert failure.value.message == (
        "pin.files names README.md, which is not taken: remove it from the pin, or let allowPatterns match it."
    )


def test_a_pin_may_be_written_in_capitals(hub: Hub, tmp_path: Path) -> None:
    weights = next(file for file in hub.files(REPO) if file.name.endswith(".safetensors"))
    pin = {"files": {weights.name: "sha256:" + weights.sha256.upper()}}
    assert run_acquire(hub, tmp_path / "store", pin=pin).file_count == len(hub.files(REPO)) - 1


def test_a_pin_of_a_spec_that_names_its_files_is_for_those(hub: Hub, tmp_path: Path) -> None:
    reason, message = acquire_refusal(hub, tmp_path / "store", pin={"files": {"README.md": "sha256:" + "0" * 64}})
    assert reason is Reason.FILE_NOT_FOUND
    assert message == "pin.files names README.md, which is none of the model's files: remove it from the pin."
