"""Checkpoints that only an engine loads: what is found out about them, and what is refused all the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_contract.reasons import Reason
from slm_contract.results import Dimensions
from slm_pipelines.errors import BadInput
from slm_pipelines.formats import Header
from slm_pipelines.formats.engine_config import count_parameters, parse_engine_config
from slm_pipelines.formats.safetensors import Tensor
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import acquire
from slm_pipelines.store import Store
from tests.support.fetching import acquire_spec, hub, run_resolve
from tests.support.hub import Hub
from tests.support.models import write_model
from tests.support.quantized import AWQ, FP8, GPTQ, INT4, INT8, write_awq, write_int8

__all__ = ["hub"]
GEMMA3 = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "head_dim": 256, "hidden_size": 2560, "intermediate_size": 10240, "max_position_embeddings": 131072,
        "num_attention_heads": 8, "num_hidden_layers": 34, "num_key_value_heads": 4, "vocab_size": 262208,
    },
}  # fmt: skip
"""google/gemma-3-4b-it, config.json with the defaults of its class written out."""
GPT2 = {"architectures": ["GPT2LMHeadModel"], "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "vocab_size": 50257}  # fmt: skip
"""openai-community/gpt2, config.json."""
PHI3 = {
    "architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "vocab_size": 32064, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
}  # fmt: skip
"""microsoft/Phi-3-mini-4k-instruct, config.json."""
BITSANDBYTES = (
    "The weights are quantized already, by 'bitsandbytes', which no engine here is known to load: use a repository "
    "quantized by awq, gptq, fp8, compressed-tensors, or the one they were made from."
)
PHI3_DIMENSIONS = Dimensions(
    vocab_size=32064, hidden_size=3072, intermediate_size=8192, layers=32, heads=32, kv_heads=32, head_dim=96
)
GEMMA3_DIMENSIONS = Dimensions(
    vocab_size=262208, hidden_size=2560, intermediate_size=10240, layers=34, heads=8, kv_heads=4, head_dim=256
)


def local(folder: Path) -> dict[str, Any]:
    return {"path": {"path": str(folder)}}


def parse(**config: Any) -> Any:
    return parse_engine_config({"config.json": json.dumps(config).encode()})


@pytest.mark.parametrize(
    ("method", "format_", "packed_bits"),
    [
        (None, "safetensors", 0),
        (AWQ, "awq", 4),
        (GPTQ, "gptq", 4),
        (FP8, "fp8", 0),
        (INT8, "compressed-tensors", 8),
        (INT4, "compressed-tensors", 4),
    ],
)
def test_the_format_is_the_method_by_which_weights_were_quantized(
    method: dict[str, Any] | None, format_: str, packed_bits: int
) -> None:
    found = parse(**PHI3, quantization_config=method)
    assert (found.format, found.packed_bits) == (format_, packed_bits)


@pytest.mark.parametrize("place", ["compression_config", "quantization_config"])
def test_the_method_is_found_where_publishers_write_it(place: str) -> None:
    assert parse(**PHI3, **{place: INT4}).format == "compressed-tensors"
    assert parse(architectures=["X"], text_config={"quantization_config": AWQ}).format == "awq"


@pytest.mark.parametrize(
    ("config", "context", "dimensions"),
    [
        (PHI3, 4096, PHI3_DIMENSIONS),
        (GEMMA3, 131072, GEMMA3_DIMENSIONS),
        (GPT2, 1024, None),
        ({**PHI3, "num_key_value_heads": None}, 4096, PHI3_DIMENSIONS),
        # DeepSeek-V2's latent attention keeps no keys and values.
        ({**PHI3, "kv_lora_rank": 512}, 4096, None),
        # Layers that differ, and numbers that no model has.
        ({**PHI3, "num_key_value_heads": [4, 8]}, 4096, None),
        ({**PHI3, "num_hidden_layers": 1 << 40}, 4096, None),
        ({**PHI3, "hidden_size": -3072, "max_position_embeddings": True}, 0, None),
    ],
)
def test_what_the_configuration_does_not_tell_is_left_out(
    config: dict[str, Any], context: int, dimensions: Dimensions | None
) -> None:
    found = parse(**config)
    assert (found.context_length, found.dimensions) == (context, dimensions)


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"architectures": []}, Reason.INVALID_CONFIG, "config.json names no single architecture"),
        (
            {"quantization_config": [4]},
            Reason.INVALID_CONFIG,
            "config.json has a quantization_config that is no object",
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            Reason.UNSUPPORTED_DTYPE,
            BITSANDBYTES,
        ),
        ({"quantization_config": {"quant_method": ["awq"]}}, Reason.UNSUPPORTED_DTYPE, "by ['awq'], which no engine"),
    ],
)
def test_what_nobody_loads_is_refused_with_what_to_use(changes: dict[str, Any], reason: Reason, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(**{**PHI3, **changes})
    assert caught.value.reason is reason
    assert message in str(caught.value)


def test_packed_weights_count_as_those_they_hold_and_scales_not_at_all() -> None:
    names = {
        "lm_head.weight": ("F16", (100, 16)),
        "l.q_proj.qweight": ("I32", (16, 4)),
        "l.q_proj.qzeros": ("I32", (1, 4)),
        "l.q_proj.scales": ("F16", (1, 32)),
        "l.q_proj.g_idx": ("I32", (16,)),
    }
    tensors = {name: Tensor(name, dtype, shape, 0, 0) for name, (dtype, shape) in names.items()}
    headers = {"model.safetensors": Header("model.safetensors", tensors)}
    assert count_parameters(parse(**PHI3, quantization_config=GPTQ), headers) == 1600 + 512
    # Nothing tells how many weights an integer holds, or it differs.
    unknown = {"quant_method": "gptq", "bits": "four"}
    assert count_parameters(parse(**PHI3, quantization_config=unknown), headers) == 0


def test_a_quantized_model_is_resolved_and_stored_and_says_why_it_cannot_be_converted(hub: Hub, tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain")
    write_awq(hub.root / "lab" / "awq")
    at = {"huggingFace": {"repo": "lab/awq", "endpoint": hub.endpoint}}
    found = run_resolve(hub, source=at)
    assert (found.format, found.architecture, found.context_length) == ("awq", "LlamaForCausalLM", 2048)
    assert (found.shape, found.dimensions and found.dimensions.kv_heads) == (None, 2)
    assert found.conversion_message == (
        "The weights are quantized already (`quantization_config`): use the repository they were made from."
    )
    original = run_resolve(hub, source=local(plain))
    assert original.shape is not None
    assert (found.parameters, original.conversion_message) == (original.parameters, "")
    made = acquire.run(acquire_spec(hub, tmp_path / "store", found, source=at), Reporter("acquire"))
    assert set(Store(tmp_path / "store").files(made.manifest)) == {file.name for file in found.files}


def test_an_architecture_without_a_converter_is_resolved_and_its_own_code_is_named(hub: Hub, tmp_path: Path) -> None:
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    folder = write_model(tmp_path / "x", config={"architectures": ["XForCausalLM"], **own})
    (folder / "modeling_x.py").write_text("raise SystemExit")
    found = run_resolve(hub, source=local(folder))
    assert (found.format, found.architecture, found.shape) == ("safetensors", "XForCausalLM", None)
    assert found.conversion_message == (
        "XForCausalLM cannot be converted: use one of LlamaForCausalLM, Qwen3ForCausalLM, or a repository with a GGUF "
        "file. Its own code (`auto_map`) is never run: an engine must know XForCausalLM by itself."
    )
    assert "modeling_x.py" not in {file.name for file in found.files}


def test_parameters_of_8_bits_are_counted_once(hub: Hub, tmp_path: Path) -> None:
    found = run_resolve(hub, source=local(write_int8(tmp_path / "int8")))
    plain = run_resolve(hub, source=local(write_model(tmp_path / "plain")))
    assert (found.format, found.parameters) == ("compressed-tensors", plain.parameters)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "reason", "message"),
    [
        (no_tokenizer, Reason.MISSING_TOKENIZER, "The repository has neither tokenizer.json nor tokenizer.model"),
        (no_json, Reason.UNSUPPORTED_TOKENIZER, "tokenizer.json is not valid JSON"),
        (cut, Reason.INVALID_SAFETENSORS, "model.safetensors"),
        (pickled, Reason.UNSAFE_FORMAT, "The source offers only pickled weights (pytorch_model.bin)"),
    ],
)
def test_what_is_broken_or_unsafe_is_refused_whoever_would_load_it(
    hub: Hub, tmp_path: Path, spoil: Callable[[Path], None], reason: Reason, message: str
) -> None:
    folder = write_awq(tmp_path / "awq")
    spoil(folder)
    with pytest.raises(BadInput) as caught:
        run_resolve(hub, source=local(folder))
    assert caught.value.reason is reason
    assert message in str(caught.value)
