"""The vocabulary of a GGUF file, and where a draft model's differs from that of the model it drafts for.

llama-server compares them by the same rule (llama.cpp, ``common/speculative.cpp``,
``common_speculative_are_compatible``). When they differ it serves without drafts, and says so in its log alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.gguf_header import read_gguf

TOKENS = "tokenizer.ggml.tokens"
FIRST_COMPARED = 5
"""Token from which texts are compared (``SPEC_VOCAB_CHECK_START_TOKEN_ID``): those before may have other names."""
MOST_SIZE_DIFFERENCE = 128
"""Tokens that one may have more than the other (``SPEC_VOCAB_MAX_SIZE_DIFFERENCE``): sizes of a family are padded."""
SHOWN_BYTES = 40
BEGINS_WITH_BOS = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "tekken", "lfm2"})
"""Splitting rules (``tokenizer.ggml.pre``) with a BOS where the file leaves that open (``llama-vocab.cpp``)."""
IDS: Mapping[str, tuple[int, int]] = {"llama": (1, 2), "gpt2": (11, 11)}
"""BOS and EOS by kind of tokenizer, where the file names none (``llama-vocab.cpp``)."""


@dataclass(frozen=True)
class Vocabulary:
    """What two models must share to work on the same tokens."""

    kind: str
    """``tokenizer.ggml.model``: llama (SentencePiece), gpt2 (byte-level BPE), …"""
    tokens: Sequence[bytes]
    """Texts by id."""
    bos: int | None
    """Token that is put before a text; None where none is."""
    eos: int | None
    """Token that is put after a text; None where none is."""

    def describe(self, token: int | None) -> str:
        """``token 17 ('the')``, or ``none``."""
        if token is None or not 0 <= token < len(self.tokens):
            return "none" if token is None else f"token {token}"
        text = self.tokens[token].decode("utf-8", "backslashreplace")
        return f"token {token} ({text[:SHOWN_BYTES]!r})"


def read_vocabulary(path: Path, name: str) -> Vocabulary:
    """The vocabulary of a file; ``name`` is what messages call it. Raises BadInput InvalidGguf."""
    metadata = read_gguf(path, name, (TOKENS,)).metadata
    kind, tokens = metadata.get("tokenizer.ggml.model"), metadata.get(TOKENS)
    if not isinstance(kind, str) or not isinstance(tokens, list):
        message = f"{name} holds no tokenizer: take a GGUF file that does, as converters of language models write it."
        raise BadInput(Reason.INVALID_GGUF, message)
    begins = kind == "llama" or metadata.get("tokenizer.ggml.pre") in BEGINS_WITH_BOS
    bos, eos = IDS.get(kind, (None, None))
    return Vocabulary(
        kind, tokens, _added(metadata, "bos", default=begins, id_=bos), _added(metadata, "eos", default=False, id_=eos)
    )


def _added(metadata: Mapping[str, Any], end: str, *, default: bool, id_: int | None) -> int | None:
    if not metadata.get(f"tokenizer.ggml.add_{end}_token", default):
        return None
    found = metadata.get(f"tokenizer.ggml.{end}_token_id", id_)
    return found if type(found) is int else None


def mismatch(difference: str) -> BadInput:
    """What is told where vocabularies differ, in GGUF files and elsewhere; half a sentence says in what."""
    message = (
        f"The draft model does not speak in the served model's tokens: {difference}. Name a smaller model of the "
        "same family in spec.speculative.draftModelRef, or leave spec.speculative out."
    )
    return BadInput(Reason.VOCABULARY_MISMATCH, message)


def find_difference(served: Vocabulary, draft: Vocabulary) -> str:
    """The first thing in which the draft model's vocabulary differs, as half a sentence; empty where none matters."""
    sizes = len(served.tokens), len(draft.tokens)
    if served.kind != draft.kind:
        return f"its tokenizer is of the kind {draft.kind}, not {served.kind}"
    if served.bos != draft.bos:
        return f"it begins a text with {draft.describe(draft.bos)}, not {served.describe(served.bos)}"
    if served.eos != draft.eos:
        return f"it ends a text with {draft.describe(draft.eos)}, not {served.describe(served.eos)}"
    if abs(sizes[0] - sizes[1]) > MOST_SIZE_DIFFERENCE:
        return f"it has {sizes[1]} tokens, not {sizes[0]} or up to {MOST_SIZE_DIFFERENCE} more or less"
    for token in range(FIRST_COMPARED, min(sizes)):
        if served.tokens[token] != draft.tokens[token]:
            return f"it has {draft.describe(token)}, not {served.describe(token)}"
    return ""
