"""What a body may not ask of an engine: to run the client's templates, or to fetch from where the client cannot reach.

Engines answer these where they are set up for it, and some by mistake; the gateway has one answer for all of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from slm_operator.gateway.refusal import Refusal

CONNECTS = "it makes engines connect to hosts that the client names"
FORBIDDEN: Mapping[str, str] = {
    "chat_template": "templates are programs, which only whoever serves the model may give",
    "kv_transfer_params": CONNECTS,
    "mcp_servers": CONNECTS,
    "lora": "the model's name chooses an adapter, as in service:adapter",
    "id_slot": "which slot answers is the engine's business",
}
"""Fields by why they are refused. For templates see CVE-2025-61620 (vLLM, Jinja in chat_template and its kwargs)."""
TEMPLATE_ARGUMENTS = "chat_template_kwargs"
RESERVED_ARGUMENTS = frozenset({"chat_template", "tokenize", "messages", "conversation", "tools", "documents"})
"""Arguments of the function that applies a template, rather than of templates (transformers' apply_chat_template)."""
REMOTE_TOOL = "server_url"
"""What a tool of the type ``mcp`` has, in OpenAI's responses."""
CONVERSATIONS = ("messages", "input", "query", "documents")
MEDIA = frozenset({"image_url", "video_url", "audio_url", "file_url", "input_audio", "source", "url"})
"""Parts of messages that OpenAI, Anthropic, vLLM and llama.cpp fetch or read."""
NESTED = ("content", "output")
INLINE = "data:"
NAMES_A_PLACE = frozenset({"url", "image_url", "video_url", "audio_url", "file_url"})


def check_content(document: Mapping[str, Any]) -> None:
    """Raise Refusal where a body asks for what no client may."""
    for field, reason in FORBIDDEN.items():
        if field in document:
            raise _forbidden(f"The field {field!r} is not taken: {reason}.")
    if TEMPLATE_ARGUMENTS in document:
        _check_arguments(document[TEMPLATE_ARGUMENTS])
    tools = document.get("tools")
    if isinstance(tools, list) and any(isinstance(tool, dict) and REMOTE_TOOL in tool for tool in tools):
        raise _forbidden(f"Tools with {REMOTE_TOOL!r} are not taken: {CONNECTS}.")
    for name in CONVERSATIONS:
        messages = document.get(name)
        if isinstance(messages, list):
            _check_parts(messages)


def _check_arguments(arguments: Any) -> None:
    if not isinstance(arguments, dict):
        raise _forbidden(f"The field {TEMPLATE_ARGUMENTS!r} must be an object of names and plain values.")
    for name, value in arguments.items():
        if name in RESERVED_ARGUMENTS or isinstance(value, (dict, list)):
            raise _forbidden(f"{TEMPLATE_ARGUMENTS!r} may hold plain values only, and no {name!r}.")


def _check_parts(content: Any) -> None:
    """Messages, or items of a response's input, with what stands within them: content, and what tools gave."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            for name in NESTED:
                _check_parts(part.get(name))
            for name in MEDIA & part.keys():
                _check_places(_places(name, part[name]))


def _places(name: str, value: Any) -> Iterable[Any]:
    if name in NAMES_A_PLACE:
        yield value.get("url", "") if isinstance(value, dict) else value
    elif isinstance(value, dict):
        yield from (value[each] for each in NAMES_A_PLACE & value.keys())


def _check_places(places: Iterable[Any]) -> None:
    for place in places:
        if not isinstance(place, str) or not place.startswith(INLINE):
            raise _forbidden("Media must be sent within the request, as data: URLs: engines fetch nothing.")


def _forbidden(message: str) -> Refusal:
    return Refusal(400, "forbidden_content", message)
