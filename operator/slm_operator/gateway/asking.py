"""What the gateway reads from a request's body: the model, whether to stream, and where the prompt begins."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from slm_operator.gateway.content import check_content
from slm_operator.gateway.refusal import Refusal, bad_request

PREFIX_CHARACTERS = 256
"""How much of a prompt chooses its engine. Conversations differ in their first question, mostly within two lines;
KubeAI takes 100 characters (docs/concepts/load-balancing.md there)."""
MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
"""The model's field as JSON writes it. Within a string the quotes would be escaped, so this finds fields only."""
LONGEST_MODEL_NAME = 512
PROMPTS = ("messages", "input", "prompt", "query")
"""Where the APIs have the prompt: chat and Anthropic; responses and embeddings; completions; reranking."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The parts of a body that decide where it goes. The body itself is passed on as it came."""

    model: str
    stream: bool
    prefix: str
    """The beginning of the prompt, or what the client gives in its place; empty when there is none."""
    body: bytes

    def body_for(self, served_name: str) -> bytes:
        """The body with the engine's name of the model; only that field's bytes differ, where it is found at once."""
        if not served_name or served_name == self.model:
            return self.body
        body = self.body
        found = MODEL.search(body)
        if found and b"\\u" not in body and not MODEL.search(body, found.end()):
            return b"".join((body[: found.start(1)], _quote(served_name), body[found.end(1) :]))
        document = json.loads(body)
        document["model"] = served_name
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=1024)
def _quote(name: str) -> bytes:
    return json.dumps(name).encode()


def read_ask(body: bytes) -> Ask:
    """Read a body of JSON; raises Refusal with what to change."""
    document = _parse(body)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("The field 'model' must name a model: GET /v1/models lists those that you may use.")
    if len(model) > LONGEST_MODEL_NAME:
        raise bad_request(f"The field 'model' is longer than {LONGEST_MODEL_NAME} characters: give a model's name.")
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad_request("The field 'stream' must be true or false.")
    check_content(document)
    return Ask(model, bool(stream), _prefix(document), body)


def _parse(body: bytes) -> dict[str, Any]:
    # A name that stands twice could mean one model here and another in the engine, whose parser takes the other one.
    # Looking at every object is slow, so it is done only where the bytes leave room for a second one.
    careful = body.count(b'"model"') != 1 or b"\\u" in body
    try:
        document = (CAREFUL if careful else PLAIN).decode(body.decode())
    except json.JSONDecodeError as problem:
        where = f"{problem.msg}, in line {problem.lineno}, column {problem.colno}"
        raise bad_request(f"The body must be one JSON object, in UTF-8, and it is no JSON: {where}.") from problem
    except (UnicodeDecodeError, ValueError, RecursionError) as problem:
        raise bad_request("The body must be one JSON object, in UTF-8.") from problem
    if not isinstance(document, dict):
        raise bad_request("The body must be one JSON object.")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refusal(400, "invalid_request", "A field stands twice in the body: send each field once.")
    return fields


PLAIN = json.JSONDecoder(parse_constant=_no_constant)
CAREFUL = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_distinct)


def _prefix(document: dict[str, Any]) -> str:
    """What requests with a common beginning share; ``prompt_cache_key`` is the client's own word for it."""
    key = document.get("prompt_cache_key")
    if isinstance(key, str) and key:
        return key[:PREFIX_CHARACTERS]
    for name in PROMPTS:
        if prompt := document.get(name):
            return _text(prompt)[:PREFIX_CHARACTERS]
    return ""


def _text(prompt: Any) -> str:
    """The first text: of a conversation the first question, since a system message is common to many of them."""
    if isinstance(prompt, list):
        asked = (each for each in prompt if isinstance(each, dict) and each.get("role") == "user")
        return _text(next(asked, None) or (prompt[0] if prompt else ""))
    if isinstance(prompt, dict):
        return _text(prompt.get("content") or prompt.get("text") or "")
    return prompt if isinstance(prompt, str) else ""
