"""SentencePiece BPE with byte fallback, as Llama 1 and 2 have it: ``tokenizer.model``, or ``tokenizer.json`` alone.

As upstream's ``_set_vocab_sentencepiece`` and ``_set_vocab_llama_hf``, except where their file would make llama.cpp
split text otherwise than the original does:

- tokenizer.json ranks merges, llama.cpp ranks tokens by score. Upstream gives every token the same score, so that
  pairs are merged from the left, whatever the rank; here scores say what the merges say.
- a tokenizer.model without a dummy prefix sets ``add_space_prefix``, also where tokenizer_config.json forgets to.
- an added token that only tokenizer.json knows keeps its id.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.formats.config import load_json
from slm_pipelines.formats.sentencepiece_model import BPE, SentencePieceModel, read_model
from slm_pipelines.formats.vocabulary import (
    ADDED_SCORE,
    BYTE,
    BYTE_TOKEN,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    TokenTable,
    Vocabulary,
    refuse_variations,
    steps_of,
    unsupported,
)

MODEL_NAME, ADDED_NAME = "tokenizer.model", "added_tokens.json"
SPACE = "\u2581"
BYTES = 256
MAX_TOKEN_LETTERS = 512
"""Far above any learned token; the ways to make a token grow with the square of its length."""


def read_pieces(
    files: Mapping[str, bytes], document: Mapping[str, Any] | None, options: Mapping[str, Any], size: int
) -> Vocabulary:
    """The vocabulary of tokenizer.model; ``document`` is tokenizer.json, ``options`` tokenizer_config.json.

    Raises BadInput UnsupportedTokenizer, or what malformed JSON raises.
    """
    try:
        model = read_model(files[MODEL_NAME])
    except ValueError as error:
        raise unsupported(f"{MODEL_NAME} is not a sound SentencePiece model ({error})") from None
    _check_model(model)
    if document is not None:
        _space_prefix(document)  # Its prefix may differ, its other steps may not.
    table = TokenTable(size)
    for index, piece in enumerate(model.pieces[:size]):
        kind = NORMAL if piece.type == USER_DEFINED else piece.type
        table.put(index, piece.text, kind, piece.score)
    _put_added(table, files, document or {}, options)
    return _vocabulary(table, space_prefix=model.dummy_prefix)


def read_json_pieces(document: Mapping[str, Any], size: int) -> Vocabulary:
    """The vocabulary of tokenizer.json; raises BadInput UnsupportedTokenizer, or what malformed JSON raises."""
    model = document["model"]
    refuse_variations(model, ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))
    prefix = _space_prefix(document)
    added = document.get("added_tokens") or []
    names = {token["content"] for token in added}
    learned = {text: index for text, index in model["vocab"].items() if text not in names}
    scores = _scores(learned, [_pair(merge) for merge in model["merges"]])
    table = TokenTable(size)
    for text, index in learned.items():
        table.put(index, text, BYTE if BYTE_TOKEN.fullmatch(text) else NORMAL, scores.get(text, ADDED_SCORE))
    for token in added:
        if table.holds(token["id"]):
            table.put_added(token["id"], token, raw=True)
    return _vocabulary(table, space_prefix=prefix)


def _vocabulary(table: TokenTable, *, space_prefix: bool) -> Vocabulary:
    table.refuse_repeated()
    found = {text for text, kind in zip(table.tokens, table.types, strict=True) if kind == BYTE}
    if missing := [byte for byte in range(BYTES) if f"<0x{byte:02X}>" not in found]:
        raise unsupported(f"The tokenizer has no token <0x{missing[0]:02X}>, so it cannot write every text")
    tokens, types, scores = tuple(table.tokens), tuple(table.types), tuple(table.scores)
    return Vocabulary("llama", "default", tokens, types, scores=scores, space_prefix=space_prefix)


def _check_model(model: SentencePieceModel) -> None:
    """llama.cpp merges pairs by score and changes nothing but spaces."""
    wrong = {
        "splits text by another method than BPE": model.type != BPE,
        "replaces letters first": model.charsmap,
        "removes repeated spaces": model.remove_extra_spaces,
        "leaves spaces as they are": not model.escape_spaces,
        "puts the space behind each word": model.space_as_suffix,
        "has scores that are no numbers": not all(math.isfinite(piece.score) for piece in model.pieces),
    }
    for what in (text for text, found in wrong.items() if found):
        raise unsupported(f"{MODEL_NAME} {what}, which llama.cpp does not do")


def _put_added(
    table: TokenTable, files: Mapping[str, bytes], document: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Added tokens in upstream's order, the later word counting; ids beyond the weights are left out, as there."""
    old = load_json(files, ADDED_NAME, Reason.UNSUPPORTED_TOKENIZER) if ADDED_NAME in files else {}
    for text, index in old.items():
        if table.holds(index):
            table.put(index, text, USER_DEFINED)
    for key, token in (options.get("added_tokens_decoder") or {}).items():
        if table.holds(int(key)):
            table.put_added(int(key), token)
    known = set(table.tokens)
    for token in document.get("added_tokens") or []:
        index = token["id"]
        if table.holds(index) and table.types[index] == UNUSED and token["content"] not in known:
            table.put_added(index, token)


def _space_prefix(document: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json puts a space before a text. Spaces must become U+2581 and nothing else may change."""
    prefix = escaped = False
    for step in steps_of(document.get("normalizer"), "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE:
            escaped = True
        else:
            raise unsupported(f"tokenizer.json changes text by {step['type']} first, which llama.cpp does not do")
    for step in steps_of(document.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] != "Metaspace" or step.get("replacement") != SPACE or step.get("split") is not False:
            raise unsupported(f"tokenizer.json splits text by {step['type']} first, which llama.cpp does not do")
        # llama.cpp has but one way, a space before all text. Metaspace adds none where a text begins with one, and
        # "first" none behind a special token: one token there may differ, as with upstream's files.
        prefix, escaped = step.get("prepend_scheme", "always") != "never", True
    if not escaped:
        raise unsupported(f"tokenizer.json does not write spaces as {SPACE}")
    return prefix


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _scores(vocab: Mapping[str, int], merges: list[tuple[str, str]]) -> dict[str, float]:
    """Token to score, falling in the order of the merges that make it.

    llama.cpp merges whichever two neighbours make a token. That is what the file says where its merges are those of a
    SentencePiece model: all the ways to make a token, together. Anything else is refused.
    """
    if (longest := max(map(len, vocab), default=0)) > MAX_TOKEN_LETTERS:
        raise unsupported(f"tokenizer.json has a token of {longest} letters, more than the {MAX_TOKEN_LETTERS} allowed")
    made = [text for text, _ in groupby(left + right for left, right in merges)]
    known = set(merges)
    other = next((pair for text in vocab for pair in _ways(text, vocab) if pair not in known), None)
    if other is not None or len(set(made)) < len(made):
        why = f"does not merge {other}" if other else "ranks merges that make the same token apart"
        raise unsupported(f"tokenizer.json {why}, which no SentencePiece model does")
    return {text: -float(rank) for rank, text in enumerate(made)}


def _ways(text: str, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Every two tokens that make ``text``."""
    return (
        (text[:at], text[at:])
        for at in range(1, len(text))
        if text[:at] in vocab and text[at:] in vocab and not BYTE_TOKEN.fullmatch(text)
    )
