"""A model's tokenizer as GGUF stores it, from whichever files the repository has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.byte_level import read_byte_level
from slm_pipelines.formats.config import ModelConfig, load_json
from slm_pipelines.formats.pieces import MODEL_NAME, read_json_pieces, read_pieces
from slm_pipelines.formats.special_tokens import special_tokens
from slm_pipelines.formats.vocabulary import Vocabulary, unsupported

JSON_NAME, OPTIONS_NAME = "tokenizer.json", "tokenizer_config.json"
SHOWN_LETTERS = 120
"""Of a fault in words; some quote the whole vocabulary."""


@dataclass(frozen=True)
class Tokenizer:
    """Everything GGUF keeps of a tokenizer."""

    vocabulary: Vocabulary
    special_ids: Mapping[str, int]
    """``bos``, ``eos``, … to token id."""
    add_special: Mapping[str, bool]
    """``bos`` and ``eos`` to whether the engine adds the token to every text; absent leaves it to the engine."""
    add_space_prefix: bool | None
    """Whether the engine splits a text as if it began with a space; None leaves it to the engine."""
    chat_template: str


def load_tokenizer(files: Mapping[str, bytes]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """tokenizer.json and tokenizer_config.json, parsed; raises BadInput MissingTokenizer or UnsupportedTokenizer."""
    if JSON_NAME not in files and MODEL_NAME not in files:
        message = (
            f"The repository has neither {JSON_NAME} nor {MODEL_NAME}: add {JSON_NAME} (transformers writes it with "
            "save_pretrained)."
        )
        raise BadInput(Reason.MISSING_TOKENIZER, message)
    document, options = (
        load_json(files, name, Reason.UNSUPPORTED_TOKENIZER) if name in files else None
        for name in (JSON_NAME, OPTIONS_NAME)
    )
    return document, options


def parse_tokenizer(files: Mapping[str, bytes], config: ModelConfig) -> Tokenizer:
    """Read tokenizer.json, tokenizer.model, tokenizer_config.json, added_tokens.json and chat_template.jinja.

    Raises BadInput MissingTokenizer, UnsupportedTokenizer or InvalidConfig.
    """
    document, options = load_tokenizer(files)
    try:
        return _build(files, document, options or {}, config)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        read = " or ".join(name for name in (JSON_NAME, MODEL_NAME, OPTIONS_NAME) if name in files)
        raise unsupported(f"{read} is malformed ({repr(error)[:SHOWN_LETTERS]})") from None


def _build(
    files: Mapping[str, bytes], document: Mapping[str, Any] | None, options: Mapping[str, Any], config: ModelConfig
) -> Tokenizer:
    vocabulary = _vocabulary(files, document, options, config.vocab_size)
    strict = vocabulary.model == "gpt2"
    special_ids, add_special = special_tokens(document or {}, options, config, strict=strict)
    template = _chat_template(files, options)
    # A lone surrogate raises here, not while the file is written.
    "".join((*vocabulary.tokens, *vocabulary.merges, template)).encode()
    prefix = _add_space_prefix(vocabulary, options, config)
    return Tokenizer(vocabulary, special_ids, add_special, prefix, template)


def _vocabulary(
    files: Mapping[str, bytes], document: Mapping[str, Any] | None, options: Mapping[str, Any], size: int
) -> Vocabulary:
    """By the kind that tokenizer.json names: beside a byte-level one, tokenizer.model is tiktoken's and not read."""
    if document is None:
        return read_pieces(files, None, options, size)
    model = document["model"]
    if model.get("type") != "BPE":
        raise unsupported(f"{JSON_NAME} is of the kind {model.get('type')}")
    if not model.get("byte_fallback"):
        return read_byte_level(document, size)
    return read_pieces(files, document, options, size) if MODEL_NAME in files else read_json_pieces(document, size)


def _add_space_prefix(vocabulary: Vocabulary, options: Mapping[str, Any], config: ModelConfig) -> bool | None:
    """tokenizer_config.json's word, which upstream writes for Llama only; else the tokenizer's, where it is no."""
    given = options.get("add_prefix_space")
    if isinstance(given, bool) and config.architecture == "llama":
        return given
    return None if vocabulary.space_prefix else False


def _chat_template(files: Mapping[str, bytes], options: Mapping[str, Any]) -> str:
    """tokenizer_config.json's template, else chat_template.jinja; of several named ones the default."""
    template = options.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if isinstance(template, str):
        return template
    # Python's universal newlines, as every reader of this text file has them.
    return files.get("chat_template.jinja", b"").decode().replace("\r\n", "\n")
