"""How many tokens an answer took, from the engine's own counts where it gives them."""

import json
import re
from dataclasses import dataclass
from typing import Any

FIELD = re.compile(rb'"usage"\s*:\s*(\{)')
TIMINGS = re.compile(rb'"timings"\s*:\s*(\{)')
"""llama.cpp's streams end with these, whether the client asked for counts or not. Within a string the quotes would be
escaped, so both find fields only."""
DECODER = json.JSONDecoder()
DONE = b"data: [DONE]"
TAIL_BYTES = 4096
"""Counts come with the last events of a stream, and take less."""
BYTES_PER_TOKEN = 4
"""Of English text, about; used only where an engine counts nothing."""
NAMES = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"), ("prompt_n", "predicted_n"))
"""Chat, completions and embeddings; responses and Anthropic's messages; llama.cpp's timings."""
CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_n")
"""Tokens of a prompt that are not counted among the others: by Anthropic's API (docs.anthropic.com, prompt caching) and
in llama.cpp's timings (tools/server/README.md)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer."""

    prompt: int
    completion: int
    estimated: bool = False


def usage_in(body: bytes) -> Usage | None:
    """The last counts in an answer or in the end of a stream, or None."""
    return _last(body, b'"usage"', FIELD) or _last(body, b'"timings"', TIMINGS)


def _last(body: bytes, name: bytes, field: re.Pattern[bytes]) -> Usage | None:
    start = body.rfind(name)
    while start >= 0:
        if found := field.match(body, start):
            return _read(body[found.start(1) : found.start(1) + TAIL_BYTES])
        start = body.rfind(name, 0, start)
    return None


def _read(text: bytes) -> Usage | None:
    try:
        counts, _ = DECODER.raw_decode(text.decode("utf-8", "replace"))
    except ValueError:
        return None
    for names in NAMES:
        prompt, completion = (counts.get(name) for name in names)
        if isinstance(prompt, int) or isinstance(completion, int):
            cached = sum(_number(counts.get(name)) for name in CACHED)
            return Usage(_number(prompt) + cached, _number(completion))
    return None


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


class StreamUsage:
    """Counts while a stream passes."""

    def __init__(self) -> None:
        self._head = self._tail = b""
        self._events = 0

    def feed(self, piece: bytes) -> None:
        """A piece as it came; it may end anywhere."""
        self._events += piece.count(b"data: ")
        if len(self._head) < TAIL_BYTES:
            self._head += piece[: TAIL_BYTES - len(self._head)]
        self._tail = piece[-TAIL_BYTES:] if len(piece) >= TAIL_BYTES else (self._tail + piece)[-TAIL_BYTES:]

    def result(self, body_bytes: int) -> Usage:
        """The engine's counts, or an estimate; ``body_bytes`` is the request's size."""
        events = self._events - self._tail.count(DONE)
        found = FIELD.search(self._head)
        first, last = _read(self._head[found.start(1) :]) if found else None, usage_in(self._tail)
        # Anthropic's streams begin with the prompt's count and end with the answer's, unless they are cut before.
        prompt = last.prompt if last and last.prompt else first.prompt if first else 0
        if last and last.completion:
            return Usage(prompt, last.completion)
        return Usage(prompt or body_bytes // BYTES_PER_TOKEN, events, estimated=True)
