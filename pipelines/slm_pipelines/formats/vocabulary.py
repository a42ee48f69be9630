"""What every kind of tokenizer becomes: a table of tokens by id."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""gguf.TokenType values; SentencePiece numbers its pieces in the same way."""
ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0
"""Upstream's scores of tokens that no merge makes, and of ids without a token."""
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """The part of a tokenizer that depends on its kind."""

    model: Literal["gpt2", "llama"]
    """GGUF's word for byte-level BPE, and for SentencePiece."""
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    """Of byte-level BPE."""
    scores: tuple[float, ...] = ()
    """Of SentencePiece: the pair that makes the token with the highest score is merged first."""
    space_prefix: bool = True
    """Of SentencePiece: whether a text is split as if it began with a space."""


class TokenTable:
    """Tokens by id; ids that nobody names stay unused padding, as upstream has it."""

    def __init__(self, size: int) -> None:
        self.tokens = [f"[PAD{index}]" for index in range(size)]
        self.types = [UNUSED] * size
        self.scores = [PADDING_SCORE] * size

    def put(self, index: Any, text: str, kind: int, score: float = ADDED_SCORE) -> None:
        """Name an id; raises BadInput UnsupportedTokenizer where it lies outside the vocabulary."""
        size = len(self.tokens)
        if type(index) is not int or not 0 <= index < size:
            raise unsupported(f"Token {text!r} has the id {index}, outside config.json's vocab_size of {size}")
        self.tokens[index], self.types[index], self.scores[index] = text, kind, score

    def put_added(self, index: Any, token: Mapping[str, Any], *, raw: bool = False) -> None:
        """A token added to the learned ones: found in the text before anything else is split.

        It stands there with spaces, unless ``raw``: upstream reads U+2581 in it as a space.
        """
        text = token["content"]
        control = token.get("special", False) or _looks_special(text)
        spaced = text if control or raw else text.replace("\u2581", " ")
        self.put(index, spaced, CONTROL if control else USER_DEFINED)

    def holds(self, index: Any) -> bool:
        """Whether the id is inside the vocabulary."""
        return type(index) is int and index < len(self.tokens)

    def refuse_repeated(self) -> None:
        """llama.cpp finds tokens by their text and ends at once where two have the same."""
        seen: set[str] = set()
        for text in self.tokens:
            if text in seen:
                raise unsupported(f"Token {text!r} has two ids")
            seen.add(text)


def refuse_variations(model: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Options of a BPE model in tokenizer.json that no GGUF can carry."""
    if given := [key for key in keys if model.get(key)]:
        raise unsupported(f"tokenizer.json has {given[0]} {model[given[0]]!r}, which llama.cpp does not do")
    if model["merges"] == []:
        raise unsupported("tokenizer.json has no merges, so it splits every text into single bytes")


def steps_of(part: Any, key: str) -> list[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer as the list of its steps; none for null."""
    if part is None:
        return []
    return [step for inner in part[key] for step in steps_of(inner, key)] if part["type"] == "Sequence" else [part]


def unsupported(what: str) -> BadInput:
    """UnsupportedTokenizer, with what is supported."""
    supported = (
        "byte-level BPE with the splitting rule of GPT-2, Llama 3, Qwen 2 or SmolLM and SentencePiece BPE with byte "
        "fallback can be converted"
    )
    return BadInput(Reason.UNSUPPORTED_TOKENIZER, f"{what}: only {supported}; or use a repository with a GGUF file.")


def _looks_special(text: str) -> bool:
    """Tokens that publishers forget to mark as special; the same list as upstream's."""
    wrapped = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    known = text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
    return known or any(text.startswith(begin) and text.endswith(end) for begin, end in wrapped)
