"""Tiny checkpoints that were quantized before they were published, and what real ones say of themselves."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.models import write_model, write_safetensors

Arrays = dict[str, NDArray[Any]]
DTYPES = {"float16": "F16", "float32": "F32", "int8": "I8", "int32": "I32"}

WEIGHTS_INT8: dict[str, Any] = {
    "actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8,
    "observer": "minmax", "observer_kwargs": {}, "strategy": "channel", "symmetric": True, "type": "int",
}  # fmt: skip
INPUTS_INT8 = WEIGHTS_INT8 | {"dynamic": True, "observer": None, "strategy": "token"}
AWQ = {"bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq", "version": "gemm",
       "zero_point": True}  # fmt: skip
"""Qwen/Qwen2.5-7B-Instruct-AWQ, config.json."""
GPTQ = {"bits": 4, "checkpoint_format": "gptq", "desc_act": False, "group_size": 128, "lm_head": False,
        "quant_method": "gptq", "sym": True}  # fmt: skip
"""As GPTQModel writes it (ModelCloud/GPTQModel, README)."""
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
"""Qwen/Qwen3-8B-FP8, config.json."""
INT8 = {
    "config_groups": {
        "group_0": {
            "input_activations": INPUTS_INT8,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": WEIGHTS_INT8,
        }
    },
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}
"""RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8, config.json: 8 bits for weights and activations."""
INT4 = {
    **INT8,
    "config_groups": {
        "group_0": {
            "input_activations": None,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": WEIGHTS_INT8 | {"num_bits": 4, "group_size": 128, "strategy": "group"},
        }
    },
    "format": "pack-quantized",
}
"""RedHatAI/Qwen2.5-7B-Instruct-quantized.w4a16, config.json."""


def write_int8(folder: Path, **options: Any) -> Path:
    """A model of ``write_model``, each linear layer rounded to 8 bits by its rows as ``INT8`` says."""

    def quantize(name: str, weights: NDArray[Any]) -> Arrays:
        scale = np.abs(weights).max(axis=1, keepdims=True) / 127
        return {name: np.round(weights / scale).astype(np.int8), f"{name}_scale": scale.astype(np.float16)}

    return _write(folder, INT8, quantize, options)


def write_awq(folder: Path, **options: Any) -> Path:
    """A model of ``write_model`` in AWQ's layout: eight weights of 4 bits in an integer, and what scales them."""

    def quantize(name: str, weights: NDArray[Any]) -> Arrays:
        (rows, columns), layer = weights.shape, name.removesuffix(".weight")
        return {
            f"{layer}.qweight": np.zeros((columns, rows // 8), np.int32),
            f"{layer}.qzeros": np.zeros((columns // 128, rows // 8), np.int32),
            f"{layer}.scales": np.ones((columns // 128, rows), np.float16),
        }

    return _write(folder, AWQ, quantize, options)


def _write(
    folder: Path, method: dict[str, Any], quantize: Callable[[str, NDArray[Any]], Arrays], options: dict[str, Any]
) -> Path:
    write_model(folder, dtype="f16", config={"quantization_config": method, **options.pop("config", {})}, **options)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    arrays: Arrays = {}
    for name, tensor in header.items():
        first, last = (begin + offset for offset in tensor["data_offsets"])
        array = np.frombuffer(data[first:last], np.float16).reshape(tensor["shape"])
        arrays |= quantize(name, array.astype(np.float32)) if name.endswith("_proj.weight") else {name: array}
    named = {name: (DTYPES[each.dtype.name], each.shape, each.tobytes()) for name, each in arrays.items()}
    write_safetensors(path, named)
    return folder
