"""Byte-level BPE of ``tokenizer.json``.

llama.cpp does not read the splitting rule from the file: it knows rules by name (``tokenizer.ggml.pre``). Upstream's
converter finds the name by hashing how a sample text is split, which needs the tokenizer's own code; here the rule
itself is recognised, so an unknown one is refused and never guessed.
"""

from collections.abc import Mapping
from typing import Any

from slm_pipelines.formats.vocabulary import (
    NORMAL,
    TokenTable,
    Vocabulary,
    refuse_variations,
    steps_of,
    unsupported,
)

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = _WORDS + r"\p{N}{1,3}" + _REST
QWEN2_SPLIT = _WORDS + r"\p{N}" + _REST


def read_byte_level(document: Mapping[str, Any], size: int) -> Vocabulary:
    """The vocabulary in tokenizer.json; raises BadInput UnsupportedTokenizer, or what malformed JSON raises."""
    model = document["model"]
    refuse_variations(model, ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    _check_normalizer(document.get("normalizer"))
    pre = _pre_tokenizer_name(document.get("pre_tokenizer"), ignore_merges=model.get("ignore_merges", False))
    table = TokenTable(size)
    for text, index in model["vocab"].items():
        table.put(index, text, NORMAL)
    for token in document.get("added_tokens") or []:
        table.put_added(token["id"], token)
    table.refuse_repeated()
    merges = tuple(_merge(merge) for merge in model["merges"])
    return Vocabulary("gpt2", pre, tuple(table.tokens), tuple(table.types), merges)


def _merge(merge: str | list[str]) -> str:
    """``left right``; a space inside a part is written as U+0120, as byte-level tokens have it."""
    return merge if isinstance(merge, str) else " ".join(part.replace(" ", "\u0120") for part in merge)


def _check_normalizer(normalizer: Any) -> None:
    """llama.cpp changes no letter before it splits; NFC changes none of usual text, and upstream lets it pass too."""
    for step in steps_of(normalizer, "normalizers"):
        if step["type"] != "NFC":
            raise unsupported(f"tokenizer.json changes text by {step['type']} first, which llama.cpp does not do")


def _pre_tokenizer_name(pre: Any, *, ignore_merges: bool) -> str:
    """llama.cpp's name of the splitting rule."""
    steps = steps_of(pre, "pretokenizers")
    kinds = [step.get("type") for step in steps]
    if not steps or kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise unsupported("tokenizer.json does not split text at the byte level")
    plain = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and plain:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and plain and steps[0].get("individual_digits"):
        return "smollm"
    regex = _isolated(steps[0]) if kinds == ["Split", "ByteLevel"] and not plain else None
    if regex == QWEN2_SPLIT:
        return "qwen2"
    if regex == LLAMA3_SPLIT:
        # llama.cpp knows the same rule under two names: the one that takes whole words from the vocabulary first.
        return "llama-bpe" if ignore_merges else "smaug-bpe"
    raise unsupported(f"tokenizer.json splits text by a rule that llama.cpp has no name for ({regex or kinds})")


def _isolated(split: Mapping[str, Any]) -> Any:
    """The expression of a Split that keeps every match as a piece of its own, as all of llama.cpp's rules do."""
    behavior, invert = split.get("behavior"), split.get("invert", False)
    if behavior != "Isolated" or invert is not False:
        given = f"behavior {behavior!r} and invert {invert!r}"
        raise unsupported(f"tokenizer.json splits text with {given}, where llama.cpp does 'Isolated' and False")
    return (split.get("pattern") or {}).get("Regex")
