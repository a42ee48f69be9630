"""Byte-level BPE of ``tokenizer.json`` as GGUF stores it.

llama.cpp does not read the splitting rule from the file: it knows rules by name (``tokenizer.ggml.pre``). Upstream's
converter finds the name by hashing how a sample text is split, which needs the tokenizer's own code; here the rule
itself is recognised, so an unknown one is refused and never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.config import ModelConfig, load_json

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""gguf.TokenType values."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = _WORDS + r"\p{N}{1,3}" + _REST
QWEN2_SPLIT = _WORDS + r"\p{N}" + _REST
SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "mask")


@dataclass(frozen=True)
class Tokenizer:
    """Everything GGUF keeps of a tokenizer."""

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special_ids: Mapping[str, int]
    """``bos``, ``eos``, … to token id."""
    add_special: Mapping[str, bool]
    """``bos`` and ``eos`` to whether the engine adds the token to every text; absent leaves it to the engine."""
    chat_template: str


def parse_tokenizer(files: Mapping[str, bytes], config: ModelConfig) -> Tokenizer:
    """Read tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Raises BadInput MissingTokenizer, UnsupportedTokenizer or InvalidConfig.
    """
    if "tokenizer.json" not in files:
        message = "The repository has no tokenizer.json: add one (transformers writes it with save_pretrained)."
        raise BadInput(Reason.MISSING_TOKENIZER, message)
    document = load_json(files, "tokenizer.json", Reason.UNSUPPORTED_TOKENIZER)
    options: dict[str, Any] = {}
    if "tokenizer_config.json" in files:
        options = load_json(files, "tokenizer_config.json", Reason.UNSUPPORTED_TOKENIZER)
    try:
        return _build(document, options, files, config)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _unsupported(f"tokenizer.json is malformed ({error!r})") from None


def _build(
    document: Mapping[str, Any], options: Mapping[str, Any], files: Mapping[str, bytes], config: ModelConfig
) -> Tokenizer:
    model = document["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = "SentencePiece-style BPE" if model.get("byte_fallback") else model.get("type")
        raise _unsupported(f"tokenizer.json is of the kind {kind}")
    pre = _pre_tokenizer_name(document.get("pre_tokenizer"), ignore_merges=model.get("ignore_merges", False))
    added = document.get("added_tokens") or []
    tokens, types = _vocabulary(model["vocab"], added, config.vocab_size)
    ids = {token["content"]: token["id"] for token in reversed(added)}
    bos, add_special = _added_by_template(document.get("post_processor"), options)
    texts = {kind: _content(options.get(f"{kind}_token")) for kind in SPECIAL_KINDS} | ({"bos": bos} if bos else {})
    special = {kind: ids[text] for kind, text in texts.items() if text in ids}
    for kind, token in config.special_token_ids.items():
        special.setdefault(kind, token)
    if any(not 0 <= token < config.vocab_size for token in special.values()):
        raise _unsupported(f"A special token lies outside the vocabulary of {config.vocab_size}")
    merges = tuple(_merge(merge) for merge in model["merges"])
    template = _chat_template(files, options)
    "".join((*tokens, *merges, template)).encode()  # A lone surrogate raises here, not while the file is written.
    return Tokenizer(pre, tokens, types, merges, special, add_special, template)


def _vocabulary(
    vocab: Mapping[str, int], added: list[Mapping[str, Any]], size: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Tokens and their types by id; ids that the tokenizer leaves out become unused padding, as upstream has it."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [UNUSED] * size
    for text, index in [*vocab.items(), *((token["content"], token["id"]) for token in added)]:
        if type(index) is not int or not 0 <= index < size:
            raise _unsupported(f"Token {text!r} has the id {index}, outside config.json's vocab_size of {size}")
        tokens[index], types[index] = text, NORMAL
    for token in added:
        text = token["content"]
        control = token.get("special", False) or _looks_special(text)
        types[token["id"]] = CONTROL if control else USER_DEFINED
        tokens[token["id"]] = text if control else text.replace("\u2581", " ")
    return tuple(tokens), tuple(types)


def _looks_special(text: str) -> bool:
    """Tokens that publishers forget to mark as special; the same list as upstream's."""
    wrapped = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    known = text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
    return known or any(text.startswith(begin) and text.endswith(end) for begin, end in wrapped)


def _merge(merge: str | list[str]) -> str:
    """``left right``; a space inside a part is written as U+0120, as byte-level tokens have it."""
    return merge if isinstance(merge, str) else " ".join(part.replace(" ", "\u0120") for part in merge)


def _pre_tokenizer_name(pre: Any, *, ignore_merges: bool) -> str:
    """llama.cpp's name of the splitting rule."""
    steps = pre.get("pretokenizers", [pre]) if isinstance(pre, dict) else []
    kinds = [step.get("type") for step in steps]
    if not steps or kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise _unsupported("tokenizer.json does not split text at the byte level")
    plain = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and plain:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and plain and steps[0].get("individual_digits"):
        return "smollm"
    regex = (steps[0].get("pattern") or {}).get("Regex") if kinds == ["Split", "ByteLevel"] and not plain else None
    if regex == QWEN2_SPLIT:
        return "qwen2"
    if regex == LLAMA3_SPLIT:
        # llama.cpp knows the same rule under two names: the one that takes whole words from the vocabulary first.
        return "llama-bpe" if ignore_merges else "smaug-bpe"
    raise _unsupported(f"tokenizer.json splits text by a rule that llama.cpp has no name for ({regex or kinds})")


def _added_by_template(post: Any, options: Mapping[str, Any]) -> tuple[str, dict[str, bool]]:
    """The beginning-of-text token and which special tokens every text gets."""
    bos, eos = _content(options.get("bos_token")), _content(options.get("eos_token"))
    add: dict[str, bool] = {}
    for processor in post.get("processors", [post]) if isinstance(post, dict) else []:
        if processor.get("type") == "ByteLevel":
            add = {"bos": False, "eos": False} | add
        single = processor.get("single", []) if processor.get("type") == "TemplateProcessing" else []
        first, last = (single[at].get("SpecialToken", {}).get("id") if len(single) > 1 else None for at in (0, -1))
        if first:
            bos = bos or first
            add["bos"] = first == bos
        if last and last != eos:
            raise _unsupported(f"tokenizer.json ends every text with {last!r}, which is not eos_token {eos!r}")
        if last:
            add["eos"] = True
    for kind in ("bos", "eos"):
        if isinstance(options.get(f"add_{kind}_token"), bool):
            add.setdefault(kind, options[f"add_{kind}_token"])
    return bos, add


def _content(token: Any) -> str:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _chat_template(files: Mapping[str, bytes], options: Mapping[str, Any]) -> str:
    """tokenizer_config.json's template, else chat_template.jinja; of several named ones the default."""
    template = options.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if isinstance(template, str):
        return template
    # Python's universal newlines, as every reader of this text file has them.
    return files.get("chat_template.jinja", b"").decode().replace("\r\n", "\n")


def _unsupported(what: str) -> BadInput:
    supported = "byte-level BPE with the splitting rule of GPT-2, Llama 3, Qwen 2 or SmolLM can be converted"
    return BadInput(Reason.UNSUPPORTED_TOKENIZER, f"{what}: only {supported}; or use a repository with a GGUF file.")
