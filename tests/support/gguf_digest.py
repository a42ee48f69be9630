"""A GGUF file as a small JSON document: key-values and a digest per tensor."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gguf import GGUFReader

LONG = 16
"""Arrays longer than this are represented by their length and digest."""


def digest_gguf(path: Path) -> dict[str, Any]:
    """``{"metadata": {key: value}, "tensors": {name: {type, shape, sha256}}}`` in the file's order."""
    reader = GGUFReader(path)
    metadata = {name: _value(field.contents()) for name, field in reader.fields.items()}
    tensors = {
        tensor.name: {
            "type": tensor.tensor_type.name,
            "shape": [int(size) for size in tensor.shape],
            "sha256": hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        }
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def _value(value: Any) -> Any:
    if isinstance(value, list) and len(value) > LONG:
        digest = hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()
        return {"length": len(value), "sha256": digest}
    return value
