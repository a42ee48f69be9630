"""Ollama's options, formats, durations and images as what OpenAI-compatible engines take.

Names and types of options: ollama/ollama ``api/types.go`` (``Options``, ``Runner``) and ``docs/modelfile.md``.
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_operator.gateway.ollama_errors import OllamaError

NUMBER, INTEGER, STRINGS = "float32", "integer", "array"
"""Kinds of option, in the words of Ollama's own messages."""


@dataclass(frozen=True)
class Option:
    """How an option is called where the request goes."""

    kind: str
    names: tuple[str, ...]
    """More than one where engines differ: those that do not know a name leave it alone (llama.cpp, vLLM)."""


OPTIONS = {
    "temperature": Option(NUMBER, ("temperature",)),
    "top_p": Option(NUMBER, ("top_p",)),
    "top_k": Option(INTEGER, ("top_k",)),
    "min_p": Option(NUMBER, ("min_p",)),
    "typical_p": Option(NUMBER, ("typical_p",)),
    "seed": Option(INTEGER, ("seed",)),
    "stop": Option(STRINGS, ("stop",)),
    "num_predict": Option(INTEGER, ("max_tokens",)),
    "presence_penalty": Option(NUMBER, ("presence_penalty",)),
    "frequency_penalty": Option(NUMBER, ("frequency_penalty",)),
    "repeat_penalty": Option(NUMBER, ("repeat_penalty", "repetition_penalty")),
    "repeat_last_n": Option(INTEGER, ("repeat_last_n",)),
    "mirostat": Option(INTEGER, ("mirostat",)),
    "mirostat_tau": Option(NUMBER, ("mirostat_tau",)),
    "mirostat_eta": Option(NUMBER, ("mirostat_eta",)),
    "num_keep": Option(INTEGER, ("n_keep",)),
}
"""What one request may choose. llama.cpp: tools/server/README.md; vLLM: its sampling parameters."""

OF_THE_SERVICE = frozenset(
    {
        *("num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv", "logits_all"),
        *("vocab_only", "use_mmap", "use_mlock", "embedding_only", "penalize_newline", "tfs_z"),
    }
)
"""What Ollama decides when it loads a model, and its engine no longer has: the InferenceService says it here."""

IMAGES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
"""How files begin; Ollama's clients send no media type."""
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"([+-]?)((?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+")
THINK_LEVELS = ("low", "medium", "high")


def translate_options(options: Mapping[str, Any], context_size: int) -> tuple[dict[str, Any], list[str]]:
    """(fields of the request, notes on what was left out); ``context_size`` is in tokens, 0 where it is not known.

    Raises OllamaError for values of another type, as Ollama does.
    """
    fields: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if name == "num_ctx":
            notes += _note_context(_check(name, INTEGER, value), context_size)
        elif name in OF_THE_SERVICE:
            notes.append(f"options.{name} is the service's to decide and was ignored")
        elif name not in OPTIONS:
            notes.append(f"options.{name} is not known and was ignored")
        else:
            option = OPTIONS[name]
            fields.update(dict.fromkeys(option.names, _check(name, option.kind, value)))
    if fields.get("max_tokens", 1) <= 0:
        # Ollama: -1 is without end, -2 until the context is full; the engine's context bounds both.
        del fields["max_tokens"]
    return fields, notes


def _note_context(wanted: int, context_size: int) -> list[str]:
    """A longer context than the service has is told, a shorter one does no harm."""
    if not context_size or wanted <= context_size:
        return []
    return [f"options.num_ctx is {wanted}, but the service has {context_size} tokens: set spec.contextSize for more"]


def _check(name: str, kind: str, value: Any) -> Any:
    if kind is STRINGS:
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(each, str) for each in values):
            return values
        raise OllamaError(f'option "{name}" must be of type array of strings')
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number:
        raise OllamaError(f'option "{name}" must be of type {kind}')
    # JavaScript clients send 4.0 for 4; Ollama cuts what follows the point.
    return int(value) if kind is INTEGER else value


def translate_format(value: Any) -> dict[str, Any] | None:
    """``json`` or a JSON schema as ``response_format``; None where no format is asked for."""
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"name": "format", "schema": value, "strict": True}}
    raise OllamaError(f'invalid format: {value!r}; expected "json" or a valid JSON Schema object')


def translate_think(value: Any) -> dict[str, Any]:
    """``think`` as fields of the request: templates know a switch, some models a level."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"chat_template_kwargs": {"enable_thinking": value}}
    if value in THINK_LEVELS:
        return {"reasoning_effort": value, "chat_template_kwargs": {"enable_thinking": True}}
    raise OllamaError(f'invalid think value: {value!r} (must be "high", "medium", "low", true, or false)')


def parse_keep_alive(value: Any) -> float | None:
    """Seconds; infinite for negative ones; None where nothing is said. Numbers are seconds, texts Go's durations."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _parse_duration(value)
    else:
        raise OllamaError(f"invalid keep_alive: {value!r}; expected seconds, or a duration such as 5m")
    return math.inf if seconds < 0 or not math.isfinite(seconds) else seconds


def _parse_duration(text: str) -> float:
    if text in {"0", "+0", "-0"}:
        return 0.0
    if not DURATION.fullmatch(text):
        raise OllamaError(
            f'time: invalid duration "{text[:64]}": write seconds as a number, or a unit as in 5m or 1h30m'
        )
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds


def translate_image(value: Any, where: str) -> dict[str, Any]:
    """A base64 image as a part of a message. Addresses are refused: no engine of ours fetches for a client."""
    try:
        image = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise OllamaError(f"{where} is not base64: send the bytes of the image, not its address") from error
    for prefix, kind in IMAGES.items():
        if image.startswith(prefix):
            return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{value}"}}
    raise OllamaError(f"{where} is none of PNG, JPEG, GIF and WebP")
