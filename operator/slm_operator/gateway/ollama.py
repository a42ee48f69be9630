"""Ollama's API in front of engines that speak OpenAI's: which path is what, and the answers that need no engine.

How a request goes through: ``translate_request`` gives a ``Call``; where its ``path`` is empty, ``build_loaded`` is the
answer; otherwise its ``body`` goes to that path of an engine, and ``translate_answer`` or, for streams, a
``StreamTranslator`` makes Ollama's answer of what comes back.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slm_operator.gateway.ollama_catalog import (
    Served,
    build_processes,
    build_pull,
    build_show,
    build_tags,
    build_version,
)
from slm_operator.gateway.ollama_errors import OllamaError
from slm_operator.gateway.ollama_request import ROUTES, parse_document

JSON, NDJSON, TEXT = "application/json; charset=utf-8", "application/x-ndjson", "text/plain; charset=utf-8"
ENGINE_PATHS = frozenset(ROUTES)
"""POST: translate_request."""
HEARTBEAT = b"Ollama is running"
"""At ``/``: the ``ollama`` command asks for it before anything else, and some clients look at the words."""
CATALOG_PATHS = frozenset({"/api/tags", "/api/ps", "/api/show", "/api/pull", "/api/version"})
"""answer_catalog."""
FIXED_PATHS = frozenset({"/api/create", "/api/copy", "/api/delete", "/api/push", "/api/blobs"})
"""What changes models: manifests do that here."""


@dataclass(frozen=True)
class Answer:
    """An answer that is complete."""

    status: int
    content_type: str
    body: bytes


def answer_catalog(method: str, path: str, body: bytes, served: Iterable[Served]) -> Answer:
    """The answer to one of CATALOG_PATHS, and Ollama's error for any other path that no engine answers."""
    if path == "/" and method in {"GET", "HEAD"}:
        return Answer(200, TEXT, HEARTBEAT)
    try:
        if (method, path) == ("POST", "/api/pull"):
            content, streams = build_pull(parse_document(body), served)
            return Answer(200, NDJSON if streams else JSON, content)
        return Answer(200, JSON, json.dumps(_find(method, path, body, served), ensure_ascii=False).encode())
    except OllamaError as error:
        return answer_error(error)


def answer_error(error: OllamaError) -> Answer:
    """The error in Ollama's shape."""
    return Answer(error.status, JSON, error.body)


def _find(method: str, path: str, body: bytes, served: Iterable[Served]) -> dict[str, Any]:
    if method in {"GET", "HEAD"} and path == "/api/tags":
        return build_tags(served)
    if method == "GET" and path == "/api/ps":
        return build_processes(served)
    if method in {"GET", "HEAD"} and path == "/api/version":
        return dict(build_version())
    if method == "POST" and path == "/api/show":
        return build_show(parse_document(body), served)
    if path in FIXED_PATHS or path.startswith("/api/blobs/"):
        raise OllamaError(f"{path} is not offered here: models come from SLMModel and InferenceService manifests", 403)
    if path in CATALOG_PATHS | ENGINE_PATHS:
        raise OllamaError(f"{path} does not take {method}", 405)
    raise OllamaError(f"path {path} is not served here", 404)
