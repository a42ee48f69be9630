"""Errors in Ollama's shape."""

import json
from collections.abc import Mapping
from typing import Any

from slm_operator.errors import SlmError

FIELD = "error"


class OllamaError(SlmError):
    """The answer is ``{"error": "..."}`` with a status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    @property
    def body(self) -> bytes:
        """The JSON document."""
        return write_json({FIELD: str(self)})


def write_json(document: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8, with question marks for halves of surrogate pairs: JSON's escapes can write them, UTF-8 cannot.

    Models do so in the arguments of tools, and clients in a model's name.
    """
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def model_not_found(model: str) -> OllamaError:
    """Ollama's own sentence, which clients look for before they offer to pull."""
    return OllamaError(f"model '{model}' not found", 404)


def translate_error(status: int, body: bytes) -> OllamaError:
    """An engine's or the gateway's error in OpenAI's shape; what is no such thing is not shown to clients."""
    try:
        message = find_message(json.loads(body))
    except ValueError:
        message = ""
    return OllamaError(message or f"the engine answered with status {status}", status)


def find_message(document: Any) -> str:
    """The message of ``{"error": {"message": ...}}`` or ``{"error": "..."}``; empty where there is none."""
    error = document.get(FIELD) if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""
