"""``config.json`` of the supported decoders, checked against the weights' own shapes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.safetensors import Tensor

Architecture = Literal["llama", "qwen3"]
SourceType = Literal["F32", "F16", "BF16"]
SUPPORTED: Mapping[str, Architecture] = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}
SOURCE_TYPES: Mapping[str, SourceType] = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS in llama.cpp."""
MAX_DIMENSION = 1 << 24
"""Far above any real vocabulary or width; keeps products of hostile dimensions small."""
MAX_NUMBER = 1e30
"""Far above any rope base; GGUF keeps numbers as float32, which ends at 3.4e38."""
IGNORED_SUFFIXES = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
"""Buffers that old checkpoints store and no engine reads; the upstream converter skips the same."""
ROPE_KEYS = (
    "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    "extrapolation_factor", "attention_factor", "beta_fast", "beta_slow",
)  # fmt: skip
"""Every number of rope_parameters that the converter reads."""
LAYER_TENSORS: Mapping[str, str] = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
"""Hugging Face name to GGUF name inside one layer."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base and, where the model was stretched, how."""

    theta: float
    kind: Literal["default", "linear", "yarn", "llama3"]
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says about a dense decoder."""

    name: str
    """Architecture as config.json names it."""
    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm_epsilon: float
    tied: bool
    rope: Rope
    special_token_ids: Mapping[str, int]
    """``bos``, ``eos``, … to token id, as far as config.json gives them."""


def load_json(files: Mapping[str, bytes], name: str, reason: Reason = Reason.INVALID_CONFIG) -> dict[str, Any]:
    """A JSON object among the model's small files; raises BadInput with ``reason`` when it is missing or malformed."""
    if name not in files:
        raise BadInput(reason, f"The model has no {name}: name a repository that holds one.")
    try:
        document = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise BadInput(reason, f"{name} is not valid JSON ({error}): ask its publisher to repair it.") from None
    if not isinstance(document, dict):
        raise BadInput(reason, f"{name} holds no JSON object: ask its publisher to repair it.")
    return document


def parse_config(files: Mapping[str, bytes]) -> ModelConfig:
    """Parse ``config.json``; raises BadInput InvalidConfig, UnsupportedArchitecture or UnsupportedDtype."""
    raw = load_json(files, "config.json")
    _refuse_quantized(raw)
    name, architecture = _architecture(raw)
    _refuse_variations(raw, name)
    heads, hidden = _count(raw, "num_attention_heads"), _count(raw, "hidden_size")
    # Defaults are those of transformers' LlamaConfig and Qwen3Config.
    head_dim = _count(raw, "head_dim", hidden // heads if architecture == "llama" else 128)
    kv_heads = _count(raw, "num_key_value_heads", heads if architecture == "llama" else 32)
    if heads % kv_heads or head_dim % 2:
        raise _invalid(
            f"has {heads} heads, {kv_heads} key-value heads and head_dim {head_dim}, which do not fit together"
        )
    return ModelConfig(
        name, architecture, _count(raw, "vocab_size"), hidden, _count(raw, "intermediate_size"),
        _count(raw, "num_hidden_layers", limit=MAX_LAYERS), heads, kv_heads, head_dim,
        _count(raw, "max_position_embeddings", limit=1 << 31), _number(raw, "rms_norm_eps", 1e-6),
        raw.get("tie_word_embeddings", False) is True, _rope(raw, architecture),
        _special_ids(raw),
    )  # fmt: skip


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Hugging Face name to shape for every tensor the architecture must have; biases and lm_head are not among them."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_rows, hidden),
        "self_attn.k_proj.weight": (kv_rows, hidden),
        "self_attn.v_proj.weight": (kv_rows, hidden),
        "self_attn.o_proj.weight": (hidden, q_rows),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }
    if config.architecture == "qwen3":
        layer |= {"self_attn.q_norm.weight": (config.head_dim,), "self_attn.k_norm.weight": (config.head_dim,)}
    for index in range(config.layers):
        expected |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return expected


def check_weights(config: ModelConfig, tensors: Mapping[str, Tensor]) -> SourceType:
    """Check names, shapes and number formats against config.json; the type of the weight matrices."""
    expected = _with_optional(config, tensors)
    for name, shape in expected.items():
        if name not in tensors:
            raise _invalid(f"asks for tensor {name}, which no safetensors file holds")
        if tensors[name].shape != shape:
            stored = list(tensors[name].shape)
            raise _invalid(f"gives tensor {name} the shape {list(shape)}, but the weights have {stored}")
    for name in tensors:
        if name not in expected and not name.endswith(IGNORED_SUFFIXES):
            raise _invalid(f"says {config.name}, which has no tensor {name}, but the weights hold one")
    return _source_type({name: tensors[name] for name in expected})


def gguf_name(name: str) -> str:
    """GGUF name of a Hugging Face tensor that ``check_weights`` accepted."""
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[rest]}"


def _with_optional(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    expected = expected_tensors(config)
    if not config.tied or "lm_head.weight" in tensors:
        expected["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    if any(name.endswith("o_proj.bias") for name in tensors):
        message = f"{config.name} with a bias on the attention output is not supported: use a model without one."
        raise BadInput(Reason.UNSUPPORTED_ARCHITECTURE, message)
    if any(name.endswith("q_proj.bias") for name in tensors):
        for index in range(config.layers):
            for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
                expected[f"model.layers.{index}.self_attn.{part}_proj.bias"] = (heads * config.head_dim,)
    return expected


def _source_type(tensors: Mapping[str, Tensor]) -> SourceType:
    matrices = {tensor.dtype: name for name, tensor in tensors.items() if len(tensor.shape) > 1}
    for name, tensor in tensors.items():
        if tensor.dtype not in SOURCE_TYPES:
            message = f"Tensor {name} is stored as {tensor.dtype}: only F32, F16 and BF16 weights can be converted."
            raise BadInput(Reason.UNSUPPORTED_DTYPE, message)
    if len(matrices) > 1:
        examples = ", ".join(f"{name} is {dtype}" for dtype, name in sorted(matrices.items()))
        message = f"The weight matrices mix number formats ({examples}): store them all in one."
        raise BadInput(Reason.UNSUPPORTED_DTYPE, message)
    return SOURCE_TYPES[next(iter(matrices))]


def architecture_name(raw: Mapping[str, Any]) -> str:
    """The one architecture that config.json names; raises BadInput InvalidConfig."""
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise _invalid("names no single architecture in `architectures`")
    return names[0]


def _architecture(raw: Mapping[str, Any]) -> tuple[str, Architecture]:
    name = architecture_name(raw)
    if name not in SUPPORTED:
        message = f"{name} cannot be converted: use one of {', '.join(SUPPORTED)}, or a repository with a GGUF file."
        raise BadInput(Reason.UNSUPPORTED_ARCHITECTURE, message)
    return name, SUPPORTED[name]


def _refuse_quantized(raw: Mapping[str, Any]) -> None:
    if raw.get("quantization_config") or raw.get("compression_config"):
        message = "The weights are quantized already (`quantization_config`): use the repository they were made from."
        raise BadInput(Reason.UNSUPPORTED_DTYPE, message)


def _refuse_variations(raw: Mapping[str, Any], name: str) -> None:
    """Variations that the weights' names do not show but the engine's arithmetic would get wrong."""
    wrong = {
        f"hidden_act {raw.get('hidden_act')}": raw.get("hidden_act", "silu") != "silu",
        "use_sliding_window": raw.get("use_sliding_window") is True,
        "mlp_bias": raw.get("mlp_bias") is True,
        "partial_rotary_factor": raw.get("partial_rotary_factor", 1) != 1,
    }
    for variation in (text for text, found in wrong.items() if found):
        message = f"{name} with {variation} is not supported: use a plain {' or '.join(SUPPORTED)} model."
        raise BadInput(Reason.UNSUPPORTED_ARCHITECTURE, message)


def _rope(raw: Mapping[str, Any], architecture: Architecture) -> Rope:
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise _invalid("has rope_parameters that are not an object")
    kind: Any = given.get("rope_type", given.get("type", "default"))
    allowed = ("default", "linear", "yarn", "llama3") if architecture == "llama" else ("default", "linear", "yarn")
    if kind not in allowed or given.get("partial_rotary_factor", 1) != 1:
        message = f"Position scaling {kind!r} is not supported for {architecture}: use one of {', '.join(allowed)}."
        raise BadInput(Reason.UNSUPPORTED_ARCHITECTURE, message)
    needed = {"linear": ("factor",), "yarn": ("factor",)}.get(kind, ())
    numbers = {key: _number(given, key) for key in ROPE_KEYS if given.get(key) is not None or key in needed}
    if kind in ("yarn", "llama3"):
        numbers |= _stretched(raw, given)
    if kind == "llama3" and numbers.get("low_freq_factor", 1.0) == numbers.get("high_freq_factor", 4.0):
        raise _invalid("has equal low_freq_factor and high_freq_factor")
    theta = numbers.get("rope_theta", _number(raw, "rope_theta", 10000.0))
    return Rope(float(theta), kind, numbers)


def _stretched(raw: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, float]:
    """The context before stretching, which transformers takes to be the whole one where the scaling names none.

    It lets a number at the top level of config.json pass. With it yarn's attention factor, also named ``attn_factor``.
    """
    key = "original_max_position_embeddings"
    original = _count(given, key, raw.get("max_position_embeddings"), limit=1 << 31)
    alias = {} if "attention_factor" in given or given.get("attn_factor") is None else given
    return {key: original} | ({"attention_factor": _number(alias, "attn_factor")} if alias else {})


def _special_ids(raw: Mapping[str, Any]) -> dict[str, int]:
    """Old configs say -1 for none, and lists where several tokens end a text: the tokenizer's own word counts there."""
    given = {kind: raw.get(f"{kind}_token_id") for kind in ("bos", "eos", "unk", "sep", "pad", "mask")}
    return {kind: token for kind, token in given.items() if type(token) is int and token >= 0}


def _count(raw: Mapping[str, Any], key: str, default: int | None = None, limit: int = MAX_DIMENSION) -> int:
    value = raw.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= limit:
        raise _invalid(f"has {key} {value!r} where a whole number from 1 to {limit} is needed")
    return value


def _number(raw: Mapping[str, Any], key: str, default: Any = None) -> float:
    value = raw.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_NUMBER:
        raise _invalid(f"has {key} {value!r} where a positive number is needed")
    return value


def _invalid(what: str) -> BadInput:
    return BadInput(Reason.INVALID_CONFIG, f"config.json {what}: correct it, or name another revision.")
