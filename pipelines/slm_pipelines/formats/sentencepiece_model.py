"""``tokenizer.model``: a SentencePiece model, which is a protobuf message.

Read by hand. The file is untrusted, four of its fields matter, and the sentencepiece package is native code that
would run on it in every image; the wire format takes a page (https://protobuf.dev/programming-guides/encoding/, and
the messages are in sentencepiece's src/sentencepiece_model.proto). Tests compare with that package.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_BYTES = 8 << 20
"""The largest published one, Gemma's with 262144 pieces, has 4.7 MB."""
MAX_PIECES = 1 << 19
"""Keeps the memory of a hostile file of empty pieces small."""
MAX_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""
_UNIGRAM, BPE = 1, 2
"""TrainerSpec.ModelType."""
PIECE_TYPES = range(1, 7)
"""SentencePiece.Type: normal, unknown, control, user defined, unused, byte."""
_MODEL_TYPE, _SUFFIX_SPACE = 3, 24
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5


@dataclass(frozen=True)
class Piece:
    """One token."""

    text: str
    score: float
    type: int


@dataclass
class SentencePieceModel:
    """The fields of ModelProto that decide how text is split, with their defaults."""

    pieces: list[Piece] = field(default_factory=list)
    type: int = _UNIGRAM
    space_as_suffix: bool = False
    charsmap: bool = False
    """Whether letters are replaced before the text is split, as by NFKC."""
    dummy_prefix: bool = True
    remove_extra_spaces: bool = True
    escape_spaces: bool = True


def read_model(data: bytes) -> SentencePieceModel:
    """Parse ModelProto; raises ValueError with the first fault."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, more than the {MAX_BYTES} any real one needs")
    model = SentencePieceModel()
    for number, value in _fields(memoryview(data)):
        if number == 1:
            model.pieces.append(_piece(_message(value)))
            if len(model.pieces) > MAX_PIECES:
                raise ValueError(f"more than {MAX_PIECES} pieces")
        elif number == 2:  # noqa: PLR2004 (field numbers, as in ModelProto)
            _read_trainer(model, _message(value))
        elif number == 3:  # noqa: PLR2004
            _read_normalizer(model, _message(value))
    if not model.pieces:
        raise ValueError("it holds no pieces")
    return model


def _piece(data: memoryview) -> Piece:
    fields = dict(_fields(data))
    score = fields.get(2, bytes(4))
    kind = fields.get(3, 1)
    if isinstance(score, int) or len(score) != struct.calcsize("<f") or kind not in PIECE_TYPES:
        raise ValueError("a piece has fields of the wrong type")
    text = bytes(_message(fields.get(1, memoryview(b"")))).decode()
    return Piece(text, struct.unpack("<f", score)[0], int(kind))


def _read_trainer(model: SentencePieceModel, data: memoryview) -> None:
    for number, value in _fields(data):
        if number == _MODEL_TYPE and isinstance(value, int):
            model.type = value
        elif number == _SUFFIX_SPACE:
            model.space_as_suffix = bool(value)


def _read_normalizer(model: SentencePieceModel, data: memoryview) -> None:
    for number, value in _fields(data):
        if number == _CHARSMAP:
            model.charsmap = bool(value)
        elif number == _DUMMY_PREFIX:
            model.dummy_prefix = bool(value)
        elif number == _REMOVE_SPACES:
            model.remove_extra_spaces = bool(value)
        elif number == _ESCAPE_SPACES:
            model.escape_spaces = bool(value)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message is expected")  # noqa: TRY004 (the file is at fault)
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value: a number, or the bytes of text, of a message or of a fixed number."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        size, at = _varint(data, at) if wire == _BYTES else ({_FIXED64: 8, _FIXED32: 4}.get(wire, -1), at)
        if not 0 <= size <= len(data) - at:
            raise ValueError(f"field {number} does not end inside its message")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 (the bit that says another group follows)
            return value, at + index + 1
    raise ValueError("a number does not end")
