"""Which tokens begin, end and pad a text, and which of them every text gets (upstream's gguf.SpecialVocab)."""

from collections.abc import Mapping
from typing import Any

from slm_pipelines.formats.config import ModelConfig
from slm_pipelines.formats.vocabulary import unsupported

SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "mask")
CODE_LLAMA_SIZE, CODE_LLAMA_EOT = 32016, 32010
"""Upstream knows CodeLlama by the size of its vocabulary, and gives it this end of a turn."""
GRANITE_SIZE = 49152
"""Upstream knows small Granite models (and SmolLM with them) by this size: no text gets a bos token."""


def special_tokens(
    document: Mapping[str, Any], options: Mapping[str, Any], config: ModelConfig, *, strict: bool
) -> tuple[dict[str, int], dict[str, bool]]:
    """``bos``, ``eos``, … to token id, and ``bos`` and ``eos`` to whether the engine adds the token to every text.

    ``strict`` refuses an id outside the vocabulary with BadInput UnsupportedTokenizer; else it is left out.
    """
    ids = {token["content"]: token["id"] for token in reversed(document.get("added_tokens") or [])}
    bos, add = _added_by_template(document.get("post_processor"), options)
    texts = {kind: _content(options.get(f"{kind}_token")) for kind in SPECIAL_KINDS} | ({"bos": bos} if bos else {})
    named = [(kind, ids[text]) for kind, text in texts.items() if text in ids]
    special: dict[str, int] = {}
    for kind, token in [*named, *config.special_token_ids.items()]:
        if 0 <= token < config.vocab_size:
            special.setdefault(kind, token)
        elif strict:
            raise unsupported(f"A special token lies outside the vocabulary of {config.vocab_size}")
    if config.architecture == "llama" and config.vocab_size == CODE_LLAMA_SIZE:
        special.setdefault("eot", CODE_LLAMA_EOT)
    if config.architecture == "llama" and config.vocab_size == GRANITE_SIZE:
        add["bos"] = False
    return special, add


def _added_by_template(post: Any, options: Mapping[str, Any]) -> tuple[str, dict[str, bool]]:
    """The beginning-of-text token and which special tokens every text gets: tokenizer.json's word counts first."""
    bos = _content(options.get("bos_token")) or _content(options.get("cls_token"))
    eos = _content(options.get("eos_token")) or _content(options.get("sep_token"))
    add: dict[str, bool] = {}
    for processor in post.get("processors", [post]) if isinstance(post, dict) else []:
        if processor.get("type") == "ByteLevel":
            add = {"bos": False, "eos": False} | add
        single = processor.get("single", []) if processor.get("type") == "TemplateProcessing" else []
        first, last = (single[at].get("SpecialToken", {}).get("id") if len(single) > 1 else None for at in (0, -1))
        if first and bos and first != bos:
            raise unsupported(f"tokenizer.json begins every text with {first!r}, which is not bos_token {bos!r}")
        if last and last != eos:
            raise unsupported(f"tokenizer.json ends every text with {last!r}, which is not eos_token {eos!r}")
        bos = bos or first or ""
        add |= ({"bos": True} if first else {}) | ({"eos": True} if last else {})
    for kind in ("bos", "eos"):
        if isinstance(options.get(f"add_{kind}_token"), bool):
            add.setdefault(kind, options[f"add_{kind}_token"])
    return bos, add


def _content(token: Any) -> str:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
