"""LoRA adapters as PEFT saves them: two small matrices for each projection that they change.

A layer's projection W becomes W + scale * B @ A, with ``scale`` alpha / rank. Layout and settings:
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import gguf

from slm_contract.adapters import PROJECTIONS
from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.config import (
    MAX_DIMENSION,
    SOURCE_TYPES,
    expected_tensors,
    gguf_name,
    load_json,
    parse_config,
)
from slm_pipelines.formats.gguf_header import GgufHeader
from slm_pipelines.formats.gguf_write import PlannedTensor, permuted_heads
from slm_pipelines.formats.safetensors import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Header, Tensor, read_header

PEFT_TYPE = "LORA"
MATRIX = re.compile(
    r"base_model\.model\.(?P<weight>model\.layers\.(?:0|[1-9]\d{0,2})"
    r"\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj))\.lora_(?P<part>[AB])\.weight"
)
UNSET = (
    "use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication",
    "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens",
)  # fmt: skip
"""Settings under which more than the two matrices counts, or not in the same way everywhere."""
BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` that leave the model's own weights as they are."""
PACKED = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv")
"""What a projection has beside its weight or in its place where it is quantized: AWQ, GPTQ, compressed-tensors, FP8."""
ARCHITECTURES = ("llama", "qwen3")
MAX_SHOWN = 80


@dataclass(frozen=True)
class Adapter:
    """A checked adapter."""

    rank: int
    alpha: float
    """The scale of the change is ``alpha / rank``, as llama.cpp reckons it."""
    matrices: Mapping[str, tuple[Tensor, Tensor]]
    """Hugging Face name of each weight that it changes to its A (rank, columns) and B (rows, rank)."""


@dataclass(frozen=True)
class Base:
    """What an adapter must know of the model that it changes."""

    architecture: str
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, ...]]
    """GGUF name to shape, rows first."""


def check_adapter(files: Mapping[str, bytes], header: Header) -> Adapter:
    """Parse and cross-check settings and matrices.

    Raises BadInput InvalidConfig, UnsupportedAdapter, UnsupportedDtype or InvalidSafetensors.
    """
    raw = load_json(files, ADAPTER_CONFIG)
    _refuse_variations(raw)
    rank, alpha = _rank(raw), _alpha(raw)
    matrices = _pair(header)
    for weight, (a, b) in matrices.items():
        _check_pair(weight, a, b, rank)
    return Adapter(rank, alpha * sqrt(rank) if raw.get("use_rslora") is True else alpha, matrices)


def read_adapter(files: Mapping[str, Path]) -> Adapter:
    """The adapter among files of the store, as ``check_adapter``; raises BadInput FileNotFound too."""
    if missing := {ADAPTER_CONFIG, ADAPTER_WEIGHTS} - files.keys():
        message = f"The adapter holds no {missing.pop()}: name an SLMModel whose status.format is lora."
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    config = {ADAPTER_CONFIG: files[ADAPTER_CONFIG].read_bytes()}
    return check_adapter(config, read_header(files[ADAPTER_WEIGHTS], ADAPTER_WEIGHTS))


def base_of_config(files: Mapping[str, bytes]) -> Base:
    """The model whose config.json is among the files; raises BadInput as ``parse_config`` does."""
    config = parse_config(files)
    shapes = {gguf_name(name): shape for name, shape in expected_tensors(config).items()}
    return Base(config.architecture, config.heads, config.kv_heads, shapes)


def base_of_gguf(header: GgufHeader) -> Base:
    """The model in a GGUF file; raises BadInput UnsupportedArchitecture or InvalidGguf."""
    kind = header.architecture
    if kind not in ARCHITECTURES:
        message = f"An adapter cannot be converted for {kind}: use a model of {' or '.join(ARCHITECTURES)}."
        raise BadInput(Reason.UNSUPPORTED_ARCHITECTURE, message)
    heads = _head_count(header, f"{kind}.attention.head_count")
    kv_heads = _head_count(header, f"{kind}.attention.head_count_kv", heads)
    return Base(kind, heads, kv_heads, header.shapes)


def check_targets(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Hold each change against the weight of that name in the model's safetensors; raises BadInput AdapterMismatch.

    Of quantized weights the name alone is known: they are packed, each tool in its own way.
    """
    for weight, (a, b) in adapter.matrices.items():
        change = (b.shape[0], a.shape[1])
        shape = tensors[weight].shape if weight in tensors else None
        if any(weight.removesuffix(".weight") + each in tensors for each in PACKED):
            shape = change
        _check_target(weight, change, shape, 0)


def plan_adapter(adapter: Adapter, base: Base) -> list[PlannedTensor]:
    """The GGUF adapter's tensors, in the order of their names; raises BadInput AdapterMismatch.

    B's rows are those of the weight it changes, so they are reordered wherever the converter reorders the model's.
    """
    permuted = permuted_heads(base.architecture, base.heads, base.kv_heads)
    plan = []
    for weight, (a, b) in adapter.matrices.items():
        name = gguf_name(weight)
        heads = permuted.get(weight.split(".")[-2], 0)
        _check_target(weight, (b.shape[0], a.shape[1]), base.shapes.get(name), heads)
        for letter, tensor, parts in (("a", a, 0), ("b", b, heads)):
            source = (ADAPTER_WEIGHTS, tensor)
            planned = PlannedTensor(f"{name}.lora_{letter}", tensor.shape, SOURCE_TYPES[tensor.dtype], source, parts)
            plan.append(planned)
    return plan


def key_values(adapter: Adapter, base: Base) -> gguf.GGUFWriter:
    """A writer that holds every key-value and no tensor."""
    writer = gguf.GGUFWriter(None, base.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    return writer


def _head_count(header: GgufHeader, key: str, default: int = 0) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int or not 0 < value <= MAX_DIMENSION:
        message = f"The model's GGUF file has {key} {_shown(value)}: ask its publisher to repair it."
        raise BadInput(Reason.INVALID_GGUF, message)
    return value


def _refuse_variations(raw: Mapping[str, Any]) -> None:
    if raw.get("peft_type") != PEFT_TYPE:
        raise _unsupported(f"has peft_type {_shown(raw.get('peft_type'))}")
    wrong = [key for key in UNSET if raw.get(key)]
    if raw.get("bias", "none") != "none":
        wrong.append("bias")
    if raw.get("init_lora_weights") not in BEGINNINGS:
        wrong.append("init_lora_weights")
    if wrong:
        raise _unsupported(f"sets {wrong[0]} to {_shown(raw[wrong[0]])}")


def _rank(raw: Mapping[str, Any]) -> int:
    value = raw.get("r")
    if type(value) is not int or not 0 < value <= MAX_DIMENSION:
        raise _invalid(f"has r {_shown(value)} where a whole number from 1 to {MAX_DIMENSION} is needed")
    return value


def _alpha(raw: Mapping[str, Any]) -> float:
    """llama.cpp takes an alpha of 0 for none, and so for a scale of 1."""
    value = raw.get("lora_alpha")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_DIMENSION:
        raise _invalid(f"has lora_alpha {_shown(value)} where a positive number up to {MAX_DIMENSION} is needed")
    return float(value)


def _pair(header: Header) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each weight that is changed to its A and B."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(header.tensors.items()):
        match = MATRIX.fullmatch(name)
        if match is None:
            message = (
                f"{ADAPTER_WEIGHTS} holds {name[:MAX_SHOWN]}: only LoRA of {', '.join(PROJECTIONS)} can be served. "
                "Train it on those alone (target_modules), or merge it into its model."
            )
            raise BadInput(Reason.UNSUPPORTED_ADAPTER, message)
        found.setdefault(f"{match['weight']}.weight", {})[match["part"]] = tensor
    for weight, parts in found.items():
        if missing := {"A", "B"} - parts.keys():
            raise _damaged(f"has no lora_{missing.pop()} for {weight}")
    return {weight: (parts["A"], parts["B"]) for weight, parts in found.items()}


def _check_pair(weight: str, a: Tensor, b: Tensor, rank: int) -> None:
    for tensor in (a, b):
        if tensor.dtype not in SOURCE_TYPES:
            message = f"Tensor {tensor.name} is stored as {tensor.dtype}: only F32, F16 and BF16 can be converted."
            raise BadInput(Reason.UNSUPPORTED_DTYPE, message)
    matrices = len(a.shape) == len(b.shape) == 2  # noqa: PLR2004 - rows and columns
    if not matrices or (a.shape[0], b.shape[1]) != (rank, rank):
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise _damaged(f"has matrices of {shapes} for {weight}, which are none of rank {rank} ({ADAPTER_CONFIG})")


def _check_target(weight: str, change: tuple[int, int], shape: tuple[int, ...] | None, heads: int) -> None:
    advice = "name the model that the adapter was trained on."
    if shape is None:
        message = f"The adapter changes {weight}, which the model does not have: {advice}"
        raise BadInput(Reason.ADAPTER_MISMATCH, message)
    if shape != change or (heads and shape[0] % (2 * heads)):
        message = f"The adapter changes {weight} as {list(change)}, but the model's is {list(shape)}: {advice}"
        raise BadInput(Reason.ADAPTER_MISMATCH, message)


def _shown(value: Any) -> str:
    return repr(value)[:MAX_SHOWN]


def _unsupported(what: str) -> BadInput:
    message = f"{ADAPTER_CONFIG} {what}: only plain LoRA can be served. Train it without, or merge it into its model."
    return BadInput(Reason.UNSUPPORTED_ADAPTER, message)


def _invalid(what: str) -> BadInput:
    return BadInput(Reason.INVALID_CONFIG, f"{ADAPTER_CONFIG} {what}: correct it, or name another revision.")


def _damaged(what: str) -> BadInput:
    message = f"{ADAPTER_WEIGHTS} {what}; fetch it again or ask its publisher to repair it."
    return BadInput(Reason.INVALID_SAFETENSORS, message)
