"""Server-sent events of OpenAI's API as Ollama's lines of JSON, piece by piece as they come.

Lines and events: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slm_operator.gateway.ollama_answer import (
    Moment,
    Timing,
    build_head,
    build_part,
    build_tool_call,
    describe_stream_error,
    find_done_reason,
    find_thinking,
)
from slm_operator.gateway.ollama_errors import OllamaError, write_json
from slm_operator.gateway.ollama_request import Call

LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""A carriage return at the end of what has come may be half of a line end."""
LONGEST_EVENT = 4 * 2**20
"""Bytes; more is no piece of an answer."""
DONE = b"[DONE]"


class EventReader:
    """The data of server-sent events from bytes that may be split anywhere; comments and other fields are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of every event that is complete; raises OllamaError for one that never ends."""
        lines = LINE_END.split(self._rest + data)
        self._rest = lines.pop()
        self._bound(len(self._rest))
        for line in lines:
            yield from self._take(line)

    def finish(self) -> Iterator[bytes]:
        """What was complete but for its last line end."""
        if self._rest:
            yield from self._take(self._rest.removesuffix(b"\r"))
        yield from self._take(b"")
        self._rest = b""

    def _take(self, line: bytes) -> Iterator[bytes]:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._size += len(line)
            self._bound(self._size)
        elif not line and self._data:
            event = b"\n".join(self._data)
            self._data, self._size = [], 0
            yield event

    def _bound(self, size: int) -> None:
        if size > LONGEST_EVENT:
            raise OllamaError("the engine sent an event that does not end", 502)


@dataclass
class _ToolCall:
    """A tool call that comes in pieces."""

    identity: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class StreamTranslator:
    """One answer: ``feed`` what the engine sends, and give the client what comes back; then ``finish`` once."""

    call: Call
    timing: Timing
    ended: bool = False
    """The client has its last line: what the engine may still send is not for it."""
    failed: bool = False
    """That line is an error."""
    _events: EventReader = field(default_factory=EventReader)
    _calls: dict[int, _ToolCall] = field(default_factory=dict)
    _finish_reason: Any = None

    def feed(self, data: bytes, now: Moment) -> bytes:
        """Lines of JSON for what has become complete; often none."""
        return b"" if self.ended else self._lines(self._events.feed(data), now)

    def finish(self, now: Moment) -> bytes:
        """The last lines. Where the engine stopped in the middle, the last one says so."""
        lines = b"" if self.ended else self._lines(self._events.finish(), now)
        if self.ended:
            return lines
        if self._finish_reason is None:
            return lines + self._fail("the engine's answer ended before it was complete")
        return lines + self._end(now)

    def fail(self, message: str) -> bytes:
        """The last line when something between engine and client failed."""
        return b"" if self.ended else self._fail(message)

    def _lines(self, events: Iterator[bytes], now: Moment) -> bytes:
        lines = []
        try:
            for event in events:
                if self.ended:
                    break
                lines.append(self._end(now) if event == DONE else self._translate(event, now))
        except OllamaError as error:
            lines.append(self._fail(str(error)))
        return b"".join(lines)

    def _translate(self, event: bytes, now: Moment) -> bytes:
        try:
            document = json.loads(event)
            message = describe_stream_error(document)
            if message:
                return self._fail(message)
            self.timing.take(document)
            return b"".join(self._take(choice, now) for choice in (document.get("choices") or [])[:1])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OllamaError("the engine sent an event that is not of OpenAI's form", 502) from error

    def _take(self, choice: dict[str, Any], now: Moment) -> bytes:
        delta = choice.get("delta") or {"content": choice.get("text")}
        content, thinking = delta.get("content") or "", find_thinking(delta)
        for piece in delta.get("tool_calls") or []:
            self._collect(piece)
        if self.timing.first is None and (content or thinking or self._calls):
            self.timing.first = now.nanoseconds
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if not content and not (thinking and self.call.show_thinking):
            return b""
        return self._write({**build_part(self.call, content, thinking), "done": False}, now)

    def _collect(self, piece: dict[str, Any]) -> None:
        call = self._calls.setdefault(int(piece.get("index", len(self._calls))), _ToolCall())
        function = piece.get("function") or {}
        call.identity = piece.get("id") or call.identity
        call.name += function.get("name") or ""
        call.arguments += function.get("arguments") or ""

    def _end(self, now: Moment) -> bytes:
        if self._finish_reason is None:
            return self._fail("the engine's answer ended before it was complete")
        lines = b""
        if self._calls:
            # Ollama sends a call whole, so it is sent when nothing can be added any more.
            calls = [
                build_tool_call(call.name, call.arguments, index, call.identity)
                for index, call in sorted(self._calls.items())
            ]
            lines = self._write({**build_part(self.call, tool_calls=calls), "done": False}, now)
        self.ended = True
        last = {"done": True, "done_reason": find_done_reason(self._finish_reason)}
        return lines + self._write({**build_part(self.call), **last, **self.timing.metrics(now.nanoseconds)}, now)

    def _fail(self, message: str) -> bytes:
        self.ended = self.failed = True
        return write_json({"error": message}) + b"\n"

    def _write(self, part: dict[str, Any], now: Moment) -> bytes:
        return write_json({**build_head(self.call, now), **part}) + b"\n"
