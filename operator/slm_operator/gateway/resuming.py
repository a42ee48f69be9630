"""A stream goes on when its engine has crashed: another engine continues the text that the client has already.

An engine continues a conversation whose last message is the assistant's (llama.cpp's prefill, tools/server/README.md;
vLLM's continue_final_message), and a prompt to which the text is added. That is no help where the answer is more than
text (thinking, tools), or where the engine follows a grammar, which would begin anew in the middle.
"""

import json
import re
from dataclasses import replace
from typing import Any

from slm_operator.gateway.asking import Ask
from slm_operator.gateway.usage import DONE

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PATHS = frozenset({CHAT, COMPLETIONS})
"""Whose streams can be resumed."""
TEXT = re.compile(rb'(?:"delta":\s*\{"content"|"text"):\s*"((?:[^"\\]|\\.)*)"')
"""The text of an event, still escaped. Within a string the quotes would be escaped too, so this finds fields only."""
SILENT = re.compile(
    rb'"delta":\s*\{(?:"role":\s*"assistant",\s*"content":\s*(?:null|""))?\}|"choices":\s*\[\]|\A:|\Adata: \[DONE\]'
)
"""Events without any: the first, the last, counts, comments, the end."""
ERROR, ERROR_CODE = b'data: {"error"', re.compile(rb'"code":\s*5\d\d\b')
ABORTED = b'"finish_reason":"abort"'
"""How vLLM tells in a stream that it ends in the middle of an answer, or that its heart has."""
FINISHED, FINISHED_SPACED = b'"finish_reason":"', b'"finish_reason": "'
DATA, END = b"data: ", b"\n\n"
LONGEST_EVENT = 2**20
"""Bytes; what is longer is no event, and is not waited for."""
SPECIAL = (
    *("tools", "functions", "response_format", "grammar", "json_schema"),
    *("logprobs", "top_logprobs", "n_probs", "suffix", "echo"),
)
"""Fields that ask for more than text, or bind it from its beginning to its end."""
LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
"""How vLLM is asked to go on with the last message, which llama-server understands too and does by itself."""
IDENTITY = ("id", "created", "model", "system_fingerprint")
"""What all events of an answer have in common."""


def tells_failure(event: bytes) -> bool:
    """Whether an event of a stream says that its engine cannot go on."""
    return ABORTED in event or (event.startswith(ERROR) and ERROR_CODE.search(event) is not None)


class Transcript:
    """What the client of one stream has, as far as another engine must know it: the text, and little more."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = b""
        self._text = bytearray()
        self._tokens = 0
        self._identity: dict[str, Any] | None = None
        # Of the first engine's answer, once a second one goes on with it.
        self._before = 0
        # Tokens of the engines before this one.
        self.plain = True
        """Whether all of it was text so far."""
        self.finished = False
        """Whether the engine has said how the answer ends."""
        self.failed = False
        """Whether the engine has said that it cannot go on; what it says then is told to nobody."""
        self._ended = False

    def begin(self) -> None:
        """An engine answers, perhaps another one: half an event of the one before is of no use."""
        self._rest, self.failed = b"", False

    def take(self, piece: bytes) -> bytes:
        """The whole events of what has come: who has half of one cannot be helped any more."""
        if not self.plain:
            return self._take_rest() + piece
        whole, found, self._rest = (self._rest + piece).rpartition(END)
        if not found:
            self.plain = len(self._rest) <= LONGEST_EVENT
            return b"" if self.plain else self._take_rest()
        events = self._before_failure(whole.split(END))
        if self._identity is not None:
            events = [joined for event in events if (joined := self._join(event))]
        for event in events:
            self._read(event)
        return END.join((*events, b"")) if events else b""

    def _before_failure(self, events: list[bytes]) -> list[bytes]:
        """The events up to the one that says that the engine has failed."""
        for at, event in enumerate(events):
            if tells_failure(event):
                self.failed = True
                return events[:at]
        return events

    def close(self) -> bytes:
        """What is still to be told: the rest of what came, or the end that an engine owed when it crashed."""
        rest = self._take_rest()
        return DONE + END if self.finished and not self._ended and self.plain else rest

    def resume(self, ask: Ask, path: str) -> Ask | None:
        """The request for the rest of the answer; None where no engine could go on with it."""
        if not self.plain:
            return None
        document = json.loads(ask.body)
        if self._tokens:
            if any(document.get(name) for name in SPECIAL) or document.get("n") not in (None, 1):
                return None
            if not _continue(document, path, json.loads(b'"' + self._text + b'"')):
                return None
            for name in LIMITS:
                if isinstance(document.get(name), int) and document[name] > 0:
                    document[name] = max(1, document[name] - self._tokens)
        self._before = self._tokens
        if self._identity is None and self._first:
            self._identity = {name: value for name, value in _document(self._first).items() if name in IDENTITY}
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return replace(ask, body=body)

    def _take_rest(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest

    def _read(self, event: bytes) -> None:
        self._first = self._first or event
        begin = event.find(b'"delta"')  # Finding a word is much quicker than searching for a pattern.
        if found := TEXT.match(event, begin if begin >= 0 else event.find(b'"text"')):
            self._text += found[1]
            self._tokens += 1
        elif not SILENT.search(event):
            self.plain = False
        self._ended = event == DONE
        self.finished = self.finished or self._ended or FINISHED in event or FINISHED_SPACED in event

    def _join(self, event: bytes) -> bytes:
        """An event of an engine that goes on, as one of the answer that the client knows."""
        document = _document(event)
        if not document:
            return event
        if any((choice.get("delta") or {}).get("role") for choice in document.get("choices") or ()):
            return b""  # The client has its beginning.
        document |= self._identity or {}
        _add(document.get("usage"), "completion_tokens", "prompt_tokens", self._before)
        _add(document.get("timings"), "predicted_n", "prompt_n", self._before)
        return DATA + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _continue(document: dict[str, Any], path: str, text: str) -> bool:
    """Ask for what comes after the text; False where it cannot be asked for."""
    if path == CHAT and isinstance(messages := document.get("messages"), list):
        if messages and messages[-1].get("role") == "assistant":  # The client began the answer itself.
            if not isinstance(begun := messages[-1].get("content"), str):
                return False
            messages[-1] |= {"content": begun + text}
        else:
            messages.append({"role": "assistant", "content": text})
        document |= CONTINUED
        return True
    if path == COMPLETIONS and isinstance(prompt := document.get("prompt"), str):
        document["prompt"] = prompt + text
        return True
    return False


def _document(event: bytes) -> dict[str, Any]:
    """What an event holds; nothing where that is no JSON object."""
    try:
        document = json.loads(event.removeprefix(DATA))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _add(counts: Any, answer: str, prompt: str, tokens: int) -> None:
    """Count tokens of the engines before to the answer; to this one they were a part of the prompt."""
    if isinstance(counts, dict):
        counts[answer] = counts.get(answer, 0) + tokens
        counts[prompt] = max(0, counts.get(prompt, 0) - tokens)
