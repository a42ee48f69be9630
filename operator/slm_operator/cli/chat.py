"""Talking to an engine: streamed answers of an OpenAI-compatible server."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import httpx

from slm_operator.cli.exits import CommandFailed
from slm_operator.cli.terminal import printable, terminal

CONNECT_SECONDS = 10.0
FAREWELLS = frozenset({"/bye", "/exit", "/quit"})
DATA = "data:"


def parse_stream(lines: Iterable[str]) -> Iterator[str]:
    """Pieces of the answer from server-sent events; raises CommandFailed when the engine reports an error."""
    for line in lines:
        if not line.startswith(DATA):
            continue
        data = line[len(DATA) :].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise CommandFailed(f"The engine sent an event that is not JSON: {data[:80]!r}") from error
        if "error" in event:
            raise CommandFailed(f"The engine failed: {_message(event)}")
        for choice in event.get("choices", []):
            delta = choice.get("delta") or {}
            if piece := delta.get("reasoning_content") or delta.get("content"):
                yield piece


def _message(value: object) -> str:
    error = value.get("error") if isinstance(value, dict) else value
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


@dataclass
class Chat:
    """One conversation with one service."""

    url: str
    model: str
    max_tokens: int
    temperature: float | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, prompt: str) -> Iterator[str]:
        """Send a message and yield the answer as it comes; both become part of the conversation."""
        self.messages.append({"role": "user", "content": prompt})
        body: dict[str, object] = {"model": self.model, "messages": self.messages, "stream": True}
        body["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        answer: list[str] = []
        try:
            for piece in self._stream(body):
                answer.append(piece)
                yield piece
        except httpx.HTTPError as error:
            raise CommandFailed(f"{self.url} does not answer: {error}") from error
        self.messages.append({"role": "assistant", "content": "".join(answer)})

    def _stream(self, body: dict[str, object]) -> Iterator[str]:
        # A proxy named by the environment has no business between this terminal and this machine's engine.
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        address = f"{self.url}/v1/chat/completions"
        with (
            httpx.Client(timeout=timeout, trust_env=False) as client,
            client.stream("POST", address, json=body) as reply,
        ):
            if reply.is_error:
                raise CommandFailed(f"The engine refused the request ({reply.status_code}): {_refusal(reply)}")
            yield from parse_stream(reply.iter_lines())


def _refusal(reply: httpx.Response) -> str:
    text = reply.read().decode(errors="replace")
    try:
        return _message(json.loads(text))
    except ValueError:
        return text[:200]


def print_answer(chat: Chat, prompt: str) -> None:
    """Print an answer piece by piece."""
    # What a model makes up must not steer the terminal; a file or a pipe gets it as it is.
    clean = printable if sys.stdout.isatty() else str
    for piece in chat.ask(prompt):
        sys.stdout.write(clean(piece))
        sys.stdout.flush()
    terminal.result("")


def converse(chat: Chat) -> None:
    """Ask and answer until the user leaves; Ctrl-C ends an answer, not the conversation."""
    terminal.hint("type a message; /bye or Ctrl-D ends the conversation")
    while True:
        try:
            prompt = input(">>> ").strip()
        except EOFError:
            terminal.result("")
            return
        if prompt in FAREWELLS:
            return
        if prompt:
            try:
                print_answer(chat, prompt)
            except KeyboardInterrupt:
                terminal.result("")
