"""Answers of OpenAI's API as answers of Ollama's (ollama/ollama ``docs/api.md``, ``api/types.go``)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from slm_operator.gateway.ollama_errors import OllamaError, find_message
from slm_operator.gateway.ollama_request import Call, Shape

DONE_REASONS = {"tool_calls": "stop", "function_call": "stop", "eos": "stop"}
"""Ollama says ``stop`` after tool calls; other reasons (``stop``, ``length``) are called the same."""
NANOSECONDS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Moment:
    """Now, as whoever does the input and output reads it."""

    wall: datetime
    nanoseconds: int
    """Of a clock that only goes forward; durations are its differences."""


@dataclass
class Timing:
    """When things happened, in nanoseconds of ``Moment``."""

    begun: int
    load: int = 0
    """How long the request was held for an engine to start."""
    first: int | None = None
    """First piece of the answer."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """OpenAI's counts."""
    timings: Mapping[str, Any] = field(default_factory=dict)
    """llama.cpp's own measurements, which are better than ours."""

    def take(self, document: Mapping[str, Any]) -> None:
        """Counts and measurements, wherever in the answer they stand."""
        for name in ("usage", "timings"):
            value = document.get(name)
            if isinstance(value, dict):
                setattr(self, name, value)

    def metrics(self, now: int) -> dict[str, int]:
        """Ollama's counts and durations; what nobody counted is left out."""
        first = now if self.first is None else self.first
        spent_ns = {
            "prompt_eval_duration": self._measured("prompt_ms", first - self.begun - self.load),
            "eval_duration": self._measured("predicted_ms", now - first),
        }
        counts = {
            "prompt_eval_count": self.usage.get("prompt_tokens", self.timings.get("prompt_n")),
            "eval_count": self.usage.get("completion_tokens", self.timings.get("predicted_n")),
        }
        found = {"total_duration": now - self.begun, "load_duration": self.load, **counts, **spent_ns}
        return {name: max(0, int(value)) for name, value in found.items() if isinstance(value, int | float)}

    def _measured(self, name: str, otherwise: int) -> int:
        value = self.timings.get(name)
        return int(value * NANOSECONDS_PER_MS) if isinstance(value, int | float) else otherwise


def format_time(wall: datetime) -> str:
    """``2023-08-04T19:22:45.499127Z``."""
    return wall.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def build_head(call: Call, now: Moment) -> dict[str, Any]:
    """What every answer begins with."""
    return {"model": call.model, "created_at": format_time(now.wall)}


def build_part(call: Call, content: str = "", thinking: str = "", tool_calls: Any = None) -> dict[str, Any]:
    """The piece of an answer in the place where the shape has it."""
    thought = {"thinking": thinking} if thinking and call.show_thinking else {}
    if call.shape is Shape.GENERATE:
        return {"response": content, **thought}
    called = {"tool_calls": tool_calls} if tool_calls else {}
    return {"message": {"role": "assistant", "content": content, **thought, **called}}


def build_loaded(call: Call, now: Moment) -> dict[str, Any]:
    """The answer to a request that only loads or unloads a model."""
    if call.shape is Shape.EMBED:
        return {"model": call.model, "embeddings": []}
    if call.shape is Shape.EMBEDDINGS:
        return {"embedding": []}
    return {**build_head(call, now), **build_part(call), "done": True, "done_reason": call.done_reason}


def translate_answer(call: Call, body: bytes, timing: Timing, now: Moment) -> dict[str, Any]:
    """A whole answer; raises OllamaError (502) for one that is not of OpenAI's form."""
    try:
        document = json.loads(body)
        timing.take(document)
        if call.shape in {Shape.EMBED, Shape.EMBEDDINGS}:
            return _translate_embeddings(call, document, timing, now)
        choice = document["choices"][0]
        message = choice.get("message") or {"content": choice.get("text")}
        part = build_part(call, message.get("content") or "", find_thinking(message), _whole_calls(message))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise OllamaError("the engine's answer is not of OpenAI's form", 502) from error
    return {
        **build_head(call, now),
        **part,
        "done": True,
        "done_reason": find_done_reason(choice.get("finish_reason")),
        **timing.metrics(now.nanoseconds),
    }


def find_done_reason(finish_reason: Any) -> str:
    """``finish_reason`` in Ollama's words."""
    return DONE_REASONS.get(str(finish_reason), str(finish_reason or "stop"))


def find_thinking(message: Mapping[str, Any]) -> str:
    """llama.cpp and vLLM call it ``reasoning_content``, newer vLLM and Ollama itself ``reasoning``."""
    return str(message.get("reasoning_content") or message.get("reasoning") or "")


def build_tool_call(name: str, arguments: str, index: int, identity: str = "") -> dict[str, Any]:
    """A tool call with its arguments as an object; raises OllamaError where the model wrote none."""
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise OllamaError(f"the model called {name} with arguments that are no JSON object: {arguments[:200]}", 502)
    called = {"id": identity} if identity else {}
    return {**called, "function": {"index": index, "name": name, "arguments": parsed}}


def _whole_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        build_tool_call(call["function"]["name"], call["function"].get("arguments") or "", index, call.get("id") or "")
        for index, call in enumerate(message.get("tool_calls") or [])
    ]


def _translate_embeddings(call: Call, document: Mapping[str, Any], timing: Timing, now: Moment) -> dict[str, Any]:
    vectors = [entry["embedding"] for entry in sorted(document["data"], key=lambda entry: entry["index"])]
    if call.shape is Shape.EMBEDDINGS:
        return {"embedding": vectors[0]}
    metrics: dict[str, Any] = timing.metrics(now.nanoseconds)
    told = ("total_duration", "load_duration", "prompt_eval_count")
    metrics = {name: metrics[name] for name in told if name in metrics}
    return {"model": call.model, "embeddings": vectors, **metrics}


def describe_stream_error(document: Mapping[str, Any]) -> str:
    """The error that an engine sent inside a stream, or nothing."""
    if not document.get("error"):
        return ""
    return find_message(document) or "the engine failed while it answered"
