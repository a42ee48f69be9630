"""A SentencePiece BPE with byte fallback like Llama 2's, made by hand: tokenizer.model and tokenizer.json."""

import json
import struct
from collections.abc import Iterator
from itertools import chain, count, islice, product
from pathlib import Path
from typing import Any

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
WORDS = (
    "the", "rain", "in", "spain", "stays", "mainly", "plain", "and", "that", "is", "a", "tokens", "tokenizer", "hello",
    "world", "x1", "2024", "http",
)  # fmt: skip
PARTS = ("in", "ain", "er", "on", "en", "th", "he", "re", "an", "ing", "tion", "oken", "llo", SPACE * 4, "00", "1,")
LETTERS = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLU0123456789.,:;!?'\"()-<>|/_\u2581\u00e9\u00fc\u4f60\u597d\u0434\u0430"
SPECIALS: dict[str, int] = {"<unk>": 0, "<s>": 1, "</s>": 2}
ADDED = {"<|im_start|>": True, "<|im_end|>": True, "<tool>": False, f"<{SPACE}note>": False}
"""Added token to whether it is special; their ids follow the learned ones."""
UNUSED_IDS = 8
"""Ids at the end of the vocabulary that no token has; upstream writes a file without them that no engine loads."""
TRAINER_BPE = {3: 2, 24: 0, 35: 1}
"""TrainerSpec: model_type BPE, treat_whitespace_as_suffix, byte_fallback."""
NORMALIZER_LLAMA = {1: b"identity", 2: b"", 3: 1, 4: 0, 5: 1}
"""NormalizerSpec: name, precompiled_charsmap, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces."""

Piece = tuple[str, float, int]


def pieces(size: int) -> list[Piece]:
    """Text, score and type of ``size`` learned tokens, as Llama 2 orders them."""
    made = list(islice(_merged(), size - len(SPECIALS) - 256 - len(LETTERS)))
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    table: list[Piece] = [(text, 0.0, kind) for text, kind in kinds.items()]
    table += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    return table + [(text, -float(rank), NORMAL) for rank, text in enumerate([*made, *LETTERS])]


def model_bytes(
    table: list[Piece], trainer: dict[int, int] = TRAINER_BPE, normalizer: dict[int, Any] = NORMALIZER_LLAMA
) -> bytes:
    """ModelProto of sentencepiece_model.proto."""
    data = b"".join(
        _field(1, _field(1, text.encode()) + _score(score) + _field(3, kind)) for text, score, kind in table
    )
    return data + b"".join(
        _field(number, b"".join(_field(key, value) for key, value in spec.items()))
        for number, spec in ((2, trainer), (3, normalizer))
    )


def write_pieces(folder: Path, size: int, *, model: bool) -> None:
    """Write what a Llama 2 repository holds; without ``model`` what transformers saves today."""
    table = pieces(size - len(ADDED) - (UNUSED_IDS if model else 0))
    ids = SPECIALS | {text: len(table) + at for at, text in enumerate(ADDED)}
    added = [_added(text, index, special=ADDED.get(text, True)) for text, index in ids.items()]
    options: dict[str, Any] = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None, "add_bos_token": True,
        "add_eos_token": False, "legacy": False, "tokenizer_class": "LlamaTokenizer", "model_max_length": 2048,
    }  # fmt: skip
    if model:
        (folder / "tokenizer.model").write_bytes(model_bytes(table))
        _write_json(folder / "added_tokens.json", {"<extra>": len(table) + len(ADDED), "<beyond>": size})
        decoder = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in added}
        options["added_tokens_decoder"] = decoder
    else:
        options["extra_special_tokens"] = [text for text, special in ADDED.items() if special]
    _write_json(folder / "tokenizer.json", _document(table, added, legacy=model))
    _write_json(folder / "tokenizer_config.json", options)


def _merged() -> Iterator[str]:
    """Endless distinct tokens of several letters, each of which two of the letters or tokens before it make."""
    seen = set(LETTERS)
    words = [word[:end] for word in [*(SPACE + word for word in WORDS), *PARTS] for end in range(2, len(word) + 1)]
    others = ("".join(letters) for length in count(2) for letters in product(LETTERS[:26], repeat=length))
    for text in chain(words, others):
        if text not in seen and all(letter in LETTERS for letter in text):
            seen.add(text)
            yield text


def _merges(table: list[Piece]) -> list[list[str]]:
    """Every two tokens that make another, best score first, as transformers derives them from a model."""
    known = {text for text, _, kind in table if kind == NORMAL}
    return [
        [text[:at], text[at:]]
        for text, _, kind in table if kind == NORMAL
        for at in range(1, len(text)) if text[:at] in known and text[at:] in known
    ]  # fmt: skip


def _document(table: list[Piece], added: list[dict[str, Any]], *, legacy: bool) -> dict[str, Any]:
    """tokenizer.json as older transformers wrote it, or as today's does."""
    steps = [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]  # fmt: skip
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps} if legacy else None,
        "pre_tokenizer": None if legacy else metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {text: index for index, (text, _, _) in enumerate(table)}, "merges": _merges(table),
        },
    }  # fmt: skip


def _added(text: str, index: int, *, special: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, "special": special} | plain


def _field(number: int, value: int | bytes) -> bytes:
    """A field of the protobuf wire format."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _score(score: float) -> bytes:
    return _varint(2 << 3 | 5) + struct.pack("<f", score)


def _varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
