"""The vocabulary of a model in a folder, and where a draft model's differs from that of the model it drafts for.

vLLM compares sizes alone (``verify_equal_vocab_size_if_draft_model``); with other tokens of the same number it would
serve, and keep next to nothing of what the draft model proposes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.config import load_json
from slm_pipelines.formats.gguf_vocabulary import mismatch
from slm_pipelines.formats.tokenizer import JSON_NAME

CONFIG = "config.json"
SHOWN_LETTERS = 40


def check_vocabularies(draft: Mapping[str, Path], served: Mapping[str, Path]) -> None:
    """Compare sizes and tokens; raises BadInput VocabularyMismatch, MissingTokenizer, InvalidConfig or …Tokenizer."""
    sizes = _size(draft), _size(served)
    if sizes[0] != sizes[1]:
        raise mismatch(f"its vocab_size is {sizes[0]}, not {sizes[1]}")
    mine, others = _tokens(draft), _tokens(served)
    for text, id_ in sorted(others.items(), key=lambda each: each[1]):
        if mine.get(text) != id_:
            place = "none" if text not in mine else f"token {mine[text]}"
            raise mismatch(f"{text[:SHOWN_LETTERS]!r} is {place} of it, not token {id_}")


def _size(files: Mapping[str, Path]) -> Any:
    """Rows of the output, which a model of text and images has among those of its text."""
    config = _load(files, CONFIG, Reason.INVALID_CONFIG)
    text = config.get("text_config")
    return config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)


def _tokens(files: Mapping[str, Path]) -> dict[str, int]:
    """Text to id: BPE's and WordPiece's are a table, Unigram's a list of pairs."""
    if JSON_NAME not in files:
        message = f"Vocabularies cannot be compared without {JSON_NAME}: add it (transformers writes it)."
        raise BadInput(Reason.MISSING_TOKENIZER, message)
    document = _load(files, JSON_NAME, Reason.UNSUPPORTED_TOKENIZER)
    try:
        vocabulary = document["model"]["vocab"]
        pieces = (
            vocabulary if isinstance(vocabulary, dict) else {piece: id_ for id_, (piece, _) in enumerate(vocabulary)}
        )
        return {**pieces, **{each["content"]: each["id"] for each in document.get("added_tokens") or ()}}
    except (KeyError, TypeError, ValueError) as error:
        message = f"{JSON_NAME} is malformed ({repr(error)[:SHOWN_LETTERS]}): ask its publisher to repair it."
        raise BadInput(Reason.UNSUPPORTED_TOKENIZER, message) from None


def _load(files: Mapping[str, Path], name: str, reason: Reason) -> dict[str, Any]:
    content = {name: files[name].read_bytes()} if name in files else {}
    return load_json(content, name, reason)
