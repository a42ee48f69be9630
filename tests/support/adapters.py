"""LoRA adapters as PEFT saves them, for the tiny models of ``models.py``, and models with an adapter merged in."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm_pipelines.formats.safetensors import read_header
from tests.support.models import write_safetensors

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."

Matrices = dict[str, NDArray[np.float32]]


def write_adapter(
    folder: Path, model: Path, *, rank: int = 4, seed: int = 0, strength: float = 0.5, **settings: Any
) -> Path:
    """Write an adapter for the model in ``model``, stored as F32; ``settings`` are changes to adapter_config.json.

    ``strength`` is the spread of B's numbers.
    """
    rng = np.random.default_rng(seed)
    matrices: Matrices = {}
    for name, weight in sorted(load_file(model / "model.safetensors").items()):
        if name.split(".")[-2] in TARGETS:
            stem = PREFIX + name.removesuffix(".weight")
            rows, columns = weight.shape
            matrices[f"{stem}.lora_A.weight"] = rng.normal(0, columns**-0.5, (rank, columns)).astype(np.float32)
            matrices[f"{stem}.lora_B.weight"] = rng.normal(0, strength, (rows, rank)).astype(np.float32)
    return write_matrices(folder, matrices, **{"r": rank, **settings})


def write_matrices(folder: Path, matrices: Mapping[str, NDArray[Any]], **settings: Any) -> Path:
    """Write these matrices and adapter_config.json with these changes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "base_model_name_or_path": "lab/tiny", "task_type": "CAUSAL_LM", "bias": "none", "r": 4,
        "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": list(TARGETS), "init_lora_weights": True,
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
        "fan_in_fan_out": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    save_file(matrices, folder / "adapter_model.safetensors")
    return folder


def load_file(path: Path) -> Matrices:
    """Every tensor of a safetensors file whose numbers are F32."""
    data, header = path.read_bytes(), read_header(path, path.name)
    return {
        name: np.frombuffer(data[tensor.begin : tensor.end], "<f4").reshape(tensor.shape)
        for name, tensor in header.tensors.items()
    }


def save_file(tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write them as F32."""
    write_safetensors(path, {name: ("F32", each.shape, each.astype("<f4").tobytes()) for name, each in tensors.items()})


def merge(folder: Path, model: Path, adapter: Path) -> Path:
    """Write the model with the adapter added to its weights, as PEFT's ``merge_and_unload`` does it."""
    shutil.copytree(model, folder)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    weights, matrices = load_file(model / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in weights:
        stem = PREFIX + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in matrices:
            weights[name] = (
                weights[name] + scale * matrices[f"{stem}.lora_B.weight"] @ matrices[f"{stem}.lora_A.weight"]
            )
    save_file(weights, folder / "model.safetensors")
    return folder
