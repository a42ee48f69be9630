"""``config.json`` as an engine reads it that loads safetensors itself (vLLM): any architecture, quantized or not.

Less is known of such a model than conversion asks for, and what is not known is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from slm_contract.reasons import Reason
from slm_contract.results import Dimensions, WeightsFormat
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.config import (
    IGNORED_SUFFIXES,
    MAX_DIMENSION,
    MAX_LAYERS,
    architecture_name,
    load_json,
)
from slm_pipelines.formats.safetensors import Header, Tensor

METHODS: Mapping[str, WeightsFormat] = {
    "awq": "awq",
    "gptq": "gptq",
    "fp8": "fp8",
    "compressed-tensors": "compressed-tensors",
}
"""``quant_method`` to format: those that vLLM loads without a further package (docs/features/quantization)."""
PACKED, INTEGER_BITS = (".qweight", ".weight_packed"), 32
"""Integers of so many bits that hold several weights each: AWQ and GPTQ, compressed-tensors."""
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names of the longest context, in vLLM's order (``_get_and_verify_max_len``)."""
BESIDE_WEIGHTS = (
    ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_zero_point", ".weight_shape",
    ".weight_g_idx", ".input_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale", *IGNORED_SUFFIXES,
)  # fmt: skip
"""What quantization stores beside the weights, and buffers: no parameters of the model."""
MAX_CONTEXT = 1 << 31


@dataclass(frozen=True)
class EngineConfig:
    """What config.json says about any model."""

    architecture: str
    """As config.json names it."""
    format: WeightsFormat
    packed_bits: int
    """Bits of one weight where several are packed into an integer; 0 where it is not told, or differs."""
    context_length: int
    """Tokens; 0 where it is not told."""
    dimensions: Dimensions | None
    """None where a key is missing that most architectures share."""
    own_code: bool
    """Whether it names code of the repository's own (``auto_map``), which nothing here ever runs."""


def parse_engine_config(files: Mapping[str, bytes]) -> EngineConfig:
    """Parse ``config.json``; raises BadInput InvalidConfig, or UnsupportedDtype for an unknown quantization."""
    raw = load_json(files, "config.json")
    # Models that also see or hear keep the decoder's part by itself.
    text = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw
    quantized = raw.get("quantization_config") or text.get("quantization_config") or raw.get("compression_config") or {}
    return EngineConfig(
        architecture=architecture_name(raw),
        format=_format(quantized),
        packed_bits=_packed_bits(quantized),
        context_length=next((found for key in CONTEXT_KEYS if (found := _known(text, key, MAX_CONTEXT))), 0),
        dimensions=_dimensions(text),
        own_code="auto_map" in raw,
    )


def count_parameters(config: EngineConfig, headers: Mapping[str, Header]) -> int:
    """Parameters over all weight files, packed ones unpacked; 0 where nothing tells how many bits one takes."""
    stored = (tensor for header in headers.values() for tensor in header.tensors.values())
    weights = [tensor for tensor in stored if not tensor.name.endswith(BESIDE_WEIGHTS)]
    if not config.packed_bits and any(map(_is_packed, weights)):
        return 0
    return sum(
        prod(tensor.shape) * INTEGER_BITS // config.packed_bits if _is_packed(tensor) else prod(tensor.shape)
        for tensor in weights
    )


def _is_packed(tensor: Tensor) -> bool:
    return tensor.dtype == "I32" and tensor.name.endswith(PACKED)


def _format(quantized: object) -> WeightsFormat:
    if not isinstance(quantized, dict):
        raise BadInput(
            Reason.INVALID_CONFIG,
            "config.json has a quantization_config that is no object: correct it, or name another revision.",
        )
    if not quantized:
        return "safetensors"
    method = quantized.get("quant_method")
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    message = (
        f"The weights are quantized already, by {method!r}, which no engine here is known to load: use a repository "
        f"quantized by {', '.join(METHODS)}, or the one they were made from."
    )
    raise BadInput(Reason.UNSUPPORTED_DTYPE, message)


def _packed_bits(quantized: Mapping[str, Any]) -> int:
    """AWQ and GPTQ tell it once, compressed-tensors for each group of layers."""
    groups = quantized.get("config_groups")
    told = [quantized.get("bits")]
    if isinstance(groups, dict):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        told = [each.get("num_bits") for each in weights if isinstance(each, dict)]
    known = [bits for bits in told if type(bits) is int and 0 < bits <= INTEGER_BITS]
    return known[0] if known and known == [known[0]] * len(told) else 0


def _dimensions(raw: Mapping[str, Any]) -> Dimensions | None:
    """By the keys that transformers' configurations share; what has other keys, or lists of them, is left out."""
    if raw.get("kv_lora_rank"):  # DeepSeek's latent attention caches one short vector in place of keys and values.
        return None
    vocab, hidden, ffn = (_known(raw, key) for key in ("vocab_size", "hidden_size", "intermediate_size"))
    layers, heads = _known(raw, "num_hidden_layers", MAX_LAYERS), _known(raw, "num_attention_heads")
    if not (vocab and hidden and ffn and layers and heads):
        return None
    kv_heads = heads if raw.get("num_key_value_heads") is None else _known(raw, "num_key_value_heads")
    head_dim = hidden // heads if raw.get("head_dim") is None else _known(raw, "head_dim")
    if not (kv_heads and head_dim):
        return None
    return Dimensions(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=ffn, layers=layers, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim,
    )  # fmt: skip


def _known(raw: Mapping[str, Any], key: str, limit: int = MAX_DIMENSION) -> int:
    """A whole number from 1 to ``limit``; 0 where there is none."""
    value = raw.get(key)
    return value if type(value) is int and 0 < value <= limit else 0
