"""Safetensors headers, checked strictly: from the first bytes of a ranged read or from a file.

Layout (https://github.com/huggingface/safetensors#format): eight bytes of little-endian header length, a JSON object
of tensors, then their bytes, without gaps and without overlaps.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput

MAX_HEADER_BYTES = 16 << 20
"""Longest headers of one model, over all its files. Real ones take about 130 bytes per tensor: less than 100 KB for a
dense model of 30B parameters, 9 MB for one of experts. The reference implementation accepts 100 MB per file, and as
Python values each byte takes up to twenty: whoever publishes a model could fill our memory."""
MAX_TENSORS = 1 << 17
"""Tensors of one model, over all its files. A dense one of 30B parameters has less than 1,000, one of experts such as
Qwen3-30B-A3B 18,867 and, quantized by GPTQ, nearly 75,000."""
MARKS_PER_TENSOR = 10
"""Commas, braces and brackets of one tensor's description, on average: a matrix has 8. Each begins at most one Python
value."""
LENGTH_BYTES = 8
MAX_DIMENSIONS = 16
"""More than any weight has; bounds the arithmetic a hostile shape can ask for."""
CHUNK_BYTES = 4 << 20
"""Read size: the memory a copy needs, whatever the tensor's size."""
DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
INDEX_NAME = "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files of an adapter, as PEFT names them."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Offset of its first byte in the file."""
    end: int
    """Offset after its last byte in the file."""


@dataclass(frozen=True)
class Header:
    """The tensors of one file, by name."""

    file_name: str
    tensors: Mapping[str, Tensor]
    end: int = 0
    """Bytes it takes at the beginning of the file."""


def header_end(file_name: str, first_bytes: bytes, file_size: int, allowed_bytes: int = MAX_HEADER_BYTES) -> int:
    """How many bytes of the file ``parse_header`` needs, from its first eight; raises BadInput InvalidSafetensors.

    ``allowed_bytes`` is what the headers of the model's other files have left of MAX_HEADER_BYTES.
    """
    if file_size < LENGTH_BYTES or len(first_bytes) < LENGTH_BYTES:
        raise _invalid(file_name, f"has {min(file_size, len(first_bytes))} bytes, too few for a header")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if length > allowed_bytes:
        limit = f"the headers of one model may have {MAX_HEADER_BYTES} together"
        raise _invalid(file_name, f"claims a header of {length} bytes, but {limit}")
    if LENGTH_BYTES + length > file_size:
        raise _invalid(file_name, f"is truncated: its header needs {LENGTH_BYTES + length} bytes, it has {file_size}")
    return LENGTH_BYTES + length


def parse_header(file_name: str, first_bytes: bytes, file_size: int) -> Header:
    """The checked header; ``first_bytes`` must reach ``header_end``.

    Raises BadInput InvalidSafetensors or UnsupportedDtype, naming file and tensor.
    """
    end = header_end(file_name, first_bytes, file_size)
    if len(first_bytes) < end:
        raise _invalid(file_name, f"is truncated: {len(first_bytes)} of the header's {end} bytes were read")
    document = _parse_json(file_name, first_bytes[LENGTH_BYTES:end])
    document.pop("__metadata__", None)
    tensors = {name: _parse_tensor(file_name, name, entry, end) for name, entry in document.items()}
    _check_layout(file_name, list(tensors.values()), end, file_size)
    return Header(file_name, tensors, end)


def read_header(path: Path, file_name: str, allowed_bytes: int = MAX_HEADER_BYTES) -> Header:
    """The checked header of a file on disk."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(LENGTH_BYTES)
        rest = file.read(header_end(file_name, first, size, allowed_bytes) - LENGTH_BYTES)
    return parse_header(file_name, first + rest, size)


def collect_headers(names: Sequence[str], read_one: Callable[[str, int], Header]) -> dict[str, Header]:
    """The headers of all weight files by name, together within the limits; ``read_one`` gets name and bytes left."""
    headers: dict[str, Header] = {}
    bytes_left, tensors_left = MAX_HEADER_BYTES, MAX_TENSORS
    for name in names:
        header = read_one(name, bytes_left)
        bytes_left -= header.end
        tensors_left -= len(header.tensors)
        if tensors_left < 0:
            raise _too_many(name)
        headers[name] = header
    return headers


def read_chunks(file: BinaryIO, tensor: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The tensor's bytes in pieces. Read, not mapped: mapped pages of a whole model count as resident memory."""
    file.seek(tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        chunk = file.read(min(chunk_bytes, left))
        if not chunk:
            raise _invalid(Path(file.name).name, f"ends inside tensor {tensor.name}")
        left -= len(chunk)
        yield chunk


def merge(headers: Mapping[str, Header], index: bytes | None = None) -> dict[str, tuple[str, Tensor]]:
    """Tensor name to (file name, tensor) over all shards; ``index`` is the content of model.safetensors.index.json."""
    merged: dict[str, tuple[str, Tensor]] = {}
    for file_name, header in sorted(headers.items()):
        for name, tensor in sorted(header.tensors.items()):
            if name in merged:
                raise _invalid(file_name, f"holds tensor {name} that {merged[name][0]} holds too")
            merged[name] = (file_name, tensor)
    if index is not None:
        _check_index(merged, index)
    return merged


def weight_files(names: list[str], index: bytes | None) -> list[str]:
    """Which of a repository's files hold the weights: what the index names, else ``model*.safetensors``, else all."""
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if index is not None:
        return sorted(set(index_map(index).values()))
    return [name for name in found if name.startswith("model")] or found


def index_map(index: bytes) -> dict[str, str]:
    """Tensor name to file name, from the content of model.safetensors.index.json."""
    weight_map = _parse_json(INDEX_NAME, index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise _invalid(INDEX_NAME, "has no weight_map from tensor names to file names")
    return weight_map


def _check_index(merged: Mapping[str, tuple[str, Tensor]], index: bytes) -> None:
    for name, file_name in index_map(index).items():
        if name not in merged or merged[name][0] != file_name:
            raise _invalid(INDEX_NAME, f"places tensor {name} in {file_name}, which does not hold it")


def _parse_json(file_name: str, data: bytes) -> dict[str, Any]:
    if sum(map(data.count, (b",", b"{", b"["))) > MAX_TENSORS * MARKS_PER_TENSOR:
        raise _too_many(file_name)
    try:
        document = json.loads(data, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _invalid(file_name, f"has a header that is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid(file_name, "has a header that is not a JSON object")
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        earlier: set[str] = set()
        for name, _ in pairs:
            if name in earlier:
                raise ValueError(f"key {name!r} appears twice")
            earlier.add(name)
    return seen


def _parse_tensor(file_name: str, name: str, entry: Any, data_begin: int) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _invalid(file_name, f"describes tensor {name} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_counts(shape, MAX_DIMENSIONS) or not _are_counts(offsets, 2) or len(offsets) != 2:  # noqa: PLR2004
        raise _invalid(file_name, f"gives tensor {name} a shape or offsets that are not whole numbers")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        message = f"{file_name} stores tensor {name} as {dtype!r}, which is not a known number format ({known})."
        raise BadInput(Reason.UNSUPPORTED_DTYPE, message)
    begin, end = offsets
    needed = prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != needed:
        raise _invalid(file_name, f"gives tensor {name} {end - begin} bytes where {dtype} {shape} needs {needed}")
    return Tensor(name, dtype, tuple(shape), data_begin + begin, data_begin + end)


def _are_counts(values: Any, at_most: int) -> bool:
    if not isinstance(values, list) or len(values) > at_most:
        return False
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_layout(file_name: str, tensors: list[Tensor], data_begin: int, file_size: int) -> None:
    ordered = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
    if not ordered:
        raise _invalid(file_name, "holds no tensors")
    if ordered[0].begin != data_begin:
        raise _invalid(file_name, f"leaves a gap before its first tensor {ordered[0].name}")
    for before, after in pairwise(ordered):
        if after.begin != before.end:
            fault = "overlaps" if after.begin < before.end else "leaves a gap after"
            raise _invalid(file_name, f"has inconsistent offsets: tensor {after.name} {fault} {before.name}")
    if ordered[-1].end != file_size:
        fault = "is truncated" if ordered[-1].end > file_size else "has bytes that belong to no tensor"
        raise _invalid(file_name, f"{fault}: tensor {ordered[-1].name} ends at {ordered[-1].end}, the file {file_size}")


def _too_many(file_name: str) -> BadInput:
    return _invalid(file_name, f"describes more than the {MAX_TENSORS} tensors that the files of one model may hold")


def _invalid(file_name: str, what: str) -> BadInput:
    return BadInput(
        Reason.INVALID_SAFETENSORS, f"{file_name} {what}; fetch it again or ask its publisher to repair it."
    )
