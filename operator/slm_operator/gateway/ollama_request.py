"""Requests of Ollama's API as requests of OpenAI's (ollama/ollama ``docs/api.md``, ``api/types.go``)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from slm_operator.gateway.ollama_errors import OllamaError
from slm_operator.gateway.ollama_options import (
    parse_keep_alive,
    translate_format,
    translate_image,
    translate_options,
    translate_think,
)

ROLES = ("system", "user", "assistant", "tool")
LATEST = ":latest"


class Shape(StrEnum):
    """What the answer looks like."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    EMBEDDINGS = "embeddings"
    """The older form, of one text."""


@dataclass(frozen=True)
class Call:
    """A request for an engine, and what its answer must be made into."""

    shape: Shape
    model: str
    """As the client wrote it; answers repeat it."""
    path: str = ""
    """Of OpenAI's API. Empty: no engine is asked, as with an empty chat, which only loads or unloads a model."""
    body: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    show_thinking: bool = True
    keep_alive_seconds: float | None = None
    notes: tuple[str, ...] = ()
    """What was left out, a sentence each: for a header and the log, as answers have no place for it."""

    @property
    def done_reason(self) -> str:
        """Of an answer that no engine gave."""
        return "unload" if self.keep_alive_seconds == 0 else "load"


def find_model(document: Mapping[str, Any]) -> str:
    """The model that a request names (``name`` is Ollama's older field); raises OllamaError."""
    model = document.get("model") or document.get("name")
    if not isinstance(model, str) or not model:
        raise OllamaError("model is required")
    return model


def served_name(model: str) -> str:
    """The name to look up: ``latest`` is the tag of whatever names none."""
    return model.removesuffix(LATEST)


def parse_document(body: bytes) -> dict[str, Any]:
    """A request's body; raises OllamaError. Clients that send nothing mean an empty object."""
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise OllamaError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise OllamaError("the body must be a JSON object")
    return document


def translate_request(path: str, document: Mapping[str, Any], context_size: int = 0) -> Call:
    """A POST to one of Ollama's paths that an engine answers; raises OllamaError with the status to give."""
    translate = ROUTES.get(path)
    if translate is None:
        raise OllamaError(f"path {path} is not served here", 404)
    return translate(document, context_size)


def translate_chat(document: Mapping[str, Any], context_size: int = 0) -> Call:
    """``/api/chat``."""
    call = _start(Shape.CHAT, document)
    messages = _list(document, "messages")
    if not messages:
        return call
    fields = {"messages": translate_messages(messages)}
    tools = _list(document, "tools")
    if tools:
        fields["tools"] = [_translate_tool(tool) for tool in tools]
    return _finish(call, "/v1/chat/completions", document, fields, context_size)


def translate_generate(document: Mapping[str, Any], context_size: int = 0) -> Call:
    """``/api/generate``: a chat of one message, or a plain completion where the client formats the prompt itself."""
    call = _start(Shape.GENERATE, document)
    prompt, suffix = _text(document, "prompt"), _text(document, "suffix")
    for name in ("template", "context"):
        if document.get(name):
            raise OllamaError(f"{name} is not supported: the model's own template is used; send messages to /api/chat")
    if not prompt and not suffix:
        return call
    if document.get("raw") or suffix:
        if document.get("images") or document.get("system"):
            raise OllamaError("raw mode and suffix do not go with system or images: put everything into the prompt")
        fields: dict[str, Any] = {"prompt": prompt, **({"suffix": suffix} if suffix else {})}
        return _finish(call, "/v1/completions", document, fields, context_size)
    message = {"role": "user", "content": prompt, "images": document.get("images")}
    system = [{"role": "system", "content": text}] if (text := _text(document, "system")) else []
    fields = {"messages": translate_messages([*system, message])}
    return _finish(call, "/v1/chat/completions", document, fields, context_size)


def translate_embed(document: Mapping[str, Any], context_size: int = 0) -> Call:
    """``/api/embed``."""
    return _translate_embedding(Shape.EMBED, document, document.get("input"), context_size)


def translate_embeddings(document: Mapping[str, Any], context_size: int = 0) -> Call:
    """``/api/embeddings``."""
    return _translate_embedding(Shape.EMBEDDINGS, document, document.get("prompt"), context_size)


ROUTES: Mapping[str, Callable[[Mapping[str, Any], int], Call]] = {
    "/api/chat": translate_chat,
    "/api/generate": translate_generate,
    "/api/embed": translate_embed,
    "/api/embeddings": translate_embeddings,
}


def translate_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages with images as parts and tool calls with identities, which Ollama's do not have."""
    translated: list[dict[str, Any]] = []
    open_calls: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise OllamaError(f"{where}.role must be one of {', '.join(ROLES)}")
        content = _text(message, "content", where)
        entry: dict[str, Any] = {"role": message["role"], "content": content}
        images = _list(message, "images", where)
        if images:
            parts = [translate_image(image, f"{where}.images[{at}]") for at, image in enumerate(images)]
            entry["content"] = [*([{"type": "text", "text": content}] if content else []), *parts]
        calls = _list(message, "tool_calls", where)
        if calls:
            entry["tool_calls"] = [
                _translate_tool_call(call, f"{where}.tool_calls[{at}]", f"call_{number}_{at}")
                for at, call in enumerate(calls)
            ]
            open_calls = list(entry["tool_calls"])
        if message["role"] == "tool":
            entry["tool_call_id"] = _answered_call(message, open_calls, where)
        translated.append(entry)
    return translated


def _translate_tool_call(call: Any, where: str, identity: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise OllamaError(f"{where}.function.name is required")
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise OllamaError(f"{where}.function.arguments must be an object")
    return {
        "id": call.get("id") or identity,
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments, ensure_ascii=False)},
    }


def _answered_call(message: Mapping[str, Any], open_calls: list[dict[str, Any]], where: str) -> str:
    """Which call a tool's message answers: the one it names, else the first of that tool, else the first."""
    if message.get("tool_call_id"):
        return str(message["tool_call_id"])
    name = message.get("tool_name") or message.get("name")
    found = next((call for call in open_calls if not name or call["function"]["name"] == name), None)
    if found is None:
        raise OllamaError(f"{where} answers no tool call: an assistant's message with tool_calls must come before it")
    open_calls.remove(found)
    return str(found["id"])


def _translate_tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise OllamaError("tools: each needs function.name")
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _translate_embedding(shape: Shape, document: Mapping[str, Any], texts: Any, context_size: int) -> Call:
    call = _start(shape, document)
    if not texts:
        return call
    if not isinstance(texts, str) and not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise OllamaError("invalid input type: send a text or an array of texts")
    _, notes = translate_options(_options(document), context_size)
    body = {"model": served_name(call.model), "input": texts, "encoding_format": "float"}
    if document.get("dimensions"):
        body["dimensions"] = document["dimensions"]
    return Call(
        shape, call.model, "/v1/embeddings", body, keep_alive_seconds=call.keep_alive_seconds, notes=tuple(notes)
    )


def _start(shape: Shape, document: Mapping[str, Any]) -> Call:
    """What every request says; streams are Ollama's default."""
    streams = shape in {Shape.CHAT, Shape.GENERATE} and document.get("stream") is not False
    return Call(
        shape,
        find_model(document),
        stream=streams,
        show_thinking=document.get("think") is not False,
        keep_alive_seconds=parse_keep_alive(document.get("keep_alive")),
    )


def _finish(call: Call, path: str, document: Mapping[str, Any], fields: Mapping[str, Any], context_size: int) -> Call:
    """The call with what all generating requests share."""
    options, notes = translate_options(_options(document), context_size)
    body: dict[str, Any] = {"model": served_name(call.model), **fields, **options}
    response_format = translate_format(document.get("format"))
    if response_format:
        body["response_format"] = response_format
    if path != "/v1/completions":
        body |= translate_think(document.get("think"))
    if call.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if document.get("logprobs"):
        notes.append("logprobs are not translated and were left out")
    return Call(
        call.shape, call.model, path, body, call.stream, call.show_thinking, call.keep_alive_seconds, tuple(notes)
    )


def _options(document: Mapping[str, Any]) -> Mapping[str, Any]:
    options = document.get("options") or {}
    if not isinstance(options, dict):
        raise OllamaError("options must be an object")
    return options


def _list(document: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    value = document.get(name) or []
    if not isinstance(value, list):
        raise OllamaError(f"{where}{'.' if where else ''}{name} must be an array")
    return value


def _text(document: Mapping[str, Any], name: str, where: str = "") -> str:
    value = document.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise OllamaError(f"{where}{'.' if where else ''}{name} must be a text")
    return value
