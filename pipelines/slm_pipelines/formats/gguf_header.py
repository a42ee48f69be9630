"""GGUF headers, checked strictly, from the first bytes of a file.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Arrays (vocabularies) are stepped over, unless they
are asked for.
"""

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput

FIRST_READ_BYTES = 1 << 20
MAX_HEADER_BYTES = 256 << 20
"""Longer than any real vocabulary; bounds the memory of a hostile file."""
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
MAX_DIMENSIONS = 4
BLOCKS: Mapping[int, tuple[int, int]] = {kind.value: size for kind, size in GGML_QUANT_SIZES.items()}


@dataclass(frozen=True)
class GgufHeader:
    """What the header says."""

    metadata: Mapping[str, Any]
    """Scalar and string key-values; of an array only its length, unless it was to be kept."""
    shapes: Mapping[str, tuple[int, ...]]
    """Name of each tensor to its shape, rows first as safetensors has it."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(map(prod, self.shapes.values()))

    @property
    def architecture(self) -> str:
        """``general.architecture``, or empty."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def context_length(self) -> int:
        """Tokens, or 0."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if type(value) is int else 0


class _Incomplete(Exception):
    """The header goes on beyond the given bytes."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise _Incomplete
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "strict")

    def value(self, kind: int, *, keep: bool = False) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array(self.number("<I"), self.number("<Q"), keep=keep)
        if kind not in SCALARS:
            raise ValueError(f"value type {kind} is unknown")
        return self.number(SCALARS[kind])

    def _array(self, element: int, count: int, *, keep: bool) -> int | list[bytes]:
        if element == STRING and keep:
            return [self.take(self.number("<Q")) for _ in range(count)]
        if element in SCALARS:
            self.take(struct.calcsize(SCALARS[element]) * count)
        elif element == STRING:
            for _ in range(count):
                self.take(self.number("<Q"))
        else:
            raise ValueError(f"array element type {element} is unknown")
        return count


def parse_gguf(file_name: str, first_bytes: bytes, file_size: int, kept: Collection[str] = ()) -> GgufHeader | None:
    """The checked header, or None when it goes on beyond ``first_bytes``: call again with more.

    Of the keys in ``kept`` arrays of strings are kept, as bytes. Raises BadInput InvalidGguf.
    """
    try:
        header = _parse(_Reader(first_bytes), file_size, kept)
    except _Incomplete:
        if len(first_bytes) >= min(file_size, MAX_HEADER_BYTES):
            raise _invalid(file_name, "it ends inside its header") from None
        return None
    except ValueError as error:
        raise _invalid(file_name, str(error)) from None
    _refuse_part(file_name, header.metadata.get("split.count", 1))
    return header


def _refuse_part(file_name: str, count: Any) -> None:
    """A part of a split file has a header of its own, and would pass for a smaller model."""
    if type(count) is not int or count > 1:
        message = (
            f"{file_name} is one of {count} parts of a split GGUF file: use a repository that offers it whole, or "
            "join the parts with `llama-gguf-split --merge` and name the folder in source.path."
        )
        raise BadInput(Reason.INVALID_GGUF, message)


def read_gguf(path: Path, file_name: str, kept: Collection[str] = ()) -> GgufHeader:
    """The checked header of a file on disk; ``kept`` as in ``parse_gguf``."""
    size, count = path.stat().st_size, FIRST_READ_BYTES
    while True:
        with path.open("rb") as file:
            header = parse_gguf(file_name, file.read(count), size, kept)
        if header is not None:
            return header
        count *= 4


def _parse(reader: _Reader, file_size: int, kept: Collection[str]) -> GgufHeader:
    if reader.take(4) != b"GGUF":
        raise ValueError("it does not begin with the letters GGUF")
    version, tensor_count, value_count = reader.number("<I"), reader.number("<Q"), reader.number("<Q")
    if version not in VERSIONS:
        raise ValueError(f"version {version} is none of {', '.join(map(str, VERSIONS))}")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = reader.text()
        if key in metadata:
            raise ValueError(f"key {key} appears twice")
        metadata[key] = reader.value(reader.number("<I"), keep=key in kept)
    tensors = [_tensor(reader) for _ in range(tensor_count)]
    if not isinstance(metadata.get("general.architecture"), str) or not tensors:
        raise ValueError("it names no general.architecture or holds no tensors")
    _check_layout(tensors, reader.at, metadata.get("general.alignment", 32), file_size)
    return GgufHeader(metadata, {name: shape for name, shape, _, _ in tensors})


def _tensor(reader: _Reader) -> tuple[str, tuple[int, ...], int | None, int]:
    """Name, shape, bytes (None for a type newer than this code) and offset."""
    name, dimensions = reader.text(), reader.number("<I")
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"tensor {name} has {dimensions} dimensions")
    shape = [reader.number("<Q") for _ in range(dimensions)]
    kind, offset = reader.number("<I"), reader.number("<Q")
    elements, rows_first = prod(shape), tuple(reversed(shape))
    if elements >= 1 << 63:
        raise ValueError(f"tensor {name} claims {elements} elements")
    if kind not in BLOCKS:
        return name, rows_first, None, offset
    block, block_bytes = BLOCKS[kind]
    if shape[0] % block:
        raise ValueError(f"tensor {name} has rows of {shape[0]}, no multiple of its type's block of {block}")
    return name, rows_first, elements // block * block_bytes, offset


def _check_layout(
    tensors: list[tuple[str, tuple[int, ...], int | None, int]], header_end: int, alignment: Any, file_size: int
) -> None:
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment {alignment} is no power of two")
    data_begin = -(-header_end // alignment) * alignment
    end = 0
    for name, _, size, offset in sorted(tensors, key=lambda tensor: tensor[3]):
        if offset % alignment or offset < end:
            raise ValueError(f"tensor {name} is misaligned or overlaps the one before it")
        end = offset + (size or 0)
        if data_begin + end > file_size:
            raise ValueError(f"tensor {name} ends at byte {data_begin + end}, but the file has {file_size}")
    if len({name for name, *_ in tensors}) != len(tensors):
        raise ValueError("a tensor name appears twice")


def _invalid(file_name: str, what: str) -> BadInput:
    message = f"{file_name} is not a sound GGUF file: {what}; fetch it again or ask its publisher to repair it."
    return BadInput(Reason.INVALID_GGUF, message)
