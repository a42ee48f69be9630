"""Why a request is not answered, in the shapes that OpenAI's and Anthropic's clients understand.

Shapes: https://platform.openai.com/docs/guides/error-codes and https://docs.anthropic.com/en/api/errors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from slm_operator.gateway.limits import Limits

ANTHROPIC_TYPES: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}


@dataclass
class Refusal(Exception):
    """The answer is an error."""

    status: int
    code: str
    """OpenAI's machine-readable reason, also the audit's verdict."""
    message: str
    """One sentence for whoever sent the request, with what to change."""
    retry_after_seconds: int = 0
    allow: str = ""
    """The method that is allowed, where another one was used."""

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer beside its type."""
        headers = {"Retry-After": str(self.retry_after_seconds)} if self.retry_after_seconds else {}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if self.allow:
            headers["Allow"] = self.allow
        return headers

    def body(self, *, anthropic: bool = False) -> bytes:
        """The JSON document."""
        if anthropic:
            kind = ANTHROPIC_TYPES.get(self.status, "api_error")
            return json.dumps({"type": "error", "error": {"type": kind, "message": self.message}}).encode()
        error = {"message": self.message, "type": self._type(), "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    def _type(self) -> str:
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def bad_request(message: str) -> Refusal:
    """The client must send something else."""
    return Refusal(HTTPStatus.BAD_REQUEST, "invalid_request", message)


def no_such_path() -> Refusal:
    """The path is not offered; says nothing of what an engine might offer there."""
    message = (
        "No such address: this gateway answers POST to /v1/chat/completions, /v1/completions, /v1/embeddings, "
        "/v1/rerank, /v1/responses and /v1/messages, and GET /v1/models."
    )
    return Refusal(HTTPStatus.NOT_FOUND, "unknown_url", message)


def wrong_method(allowed: str) -> Refusal:
    """The path is offered, and not with this method."""
    message = f"This address answers {allowed} alone."
    return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", message, allow=allowed)


def wrong_task() -> Refusal:
    """The engine was started for something else."""
    message = "This model is not served for that: the field spec.task of its service says for what."
    return Refusal(HTTPStatus.BAD_REQUEST, "wrong_task", message)


def unsupported_media() -> Refusal:
    """The engine holds no projector, or none for that."""
    message = (
        "This model does not take such media: send text alone, or have a projector for it named in the field "
        "spec.projectorRef of its service."
    )
    return Refusal(HTTPStatus.BAD_REQUEST, "unsupported_media", message)


def no_messages() -> Refusal:
    """Engines do not take an adapter's number under Anthropic's API, and would answer with any."""
    message = "A model with adapters is not served as /v1/messages: use /v1/chat/completions or /v1/responses."
    return Refusal(HTTPStatus.BAD_REQUEST, "wrong_path", message)


def no_such_model(model: str) -> Refusal:
    """No service of that name, or none that the caller may use: the two must look alike."""
    shown = model if len(model) <= 100 else f"{model[:100]}…"  # noqa: PLR2004 (as much as a log line bears)
    message = f"The model {shown!r} does not exist or you may not use it: GET /v1/models lists those that you may."
    return Refusal(HTTPStatus.NOT_FOUND, "model_not_found", message)


def too_large(limit_bytes: int) -> Refusal:
    """The body is over the limit."""
    message = f"The request is larger than {limit_bytes} bytes: send less, or ask for a larger limit."
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", message)


def overloaded(limits: Limits) -> Refusal:
    """All bodies together are as large as they may be."""
    message = "The gateway holds as many requests as it has memory for: try again later."
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", message, limits.retry_after_seconds)


def queue_full(limits: Limits) -> Refusal:
    """As many requests wait as may."""
    message = "Too many requests wait for this model: try again later, or raise its maxReplicas."
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, "queue_full", message, limits.retry_after_seconds)


def held_too_long(key: str, limits: Limits) -> Refusal:
    """No engine took the request in time."""
    message = f"No engine of {key} could take the request within {limits.hold_seconds:g} seconds: try again later."
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "engine_not_ready", message, limits.retry_after_seconds)


def not_served(key: str, why: str) -> Refusal:
    """There is no engine, and waiting brings none."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "not_served", f"{key} has no engine and will get none: {why}.")


def engine_failed() -> Refusal:
    """The engine broke; what it said stays inside."""
    message = "The engine failed while it worked on this request: try again; the gateway's log has the reason."
    return Refusal(HTTPStatus.BAD_GATEWAY, "engine_failed", message)


def engine_silent() -> Refusal:
    """The engine did not answer in time."""
    message = "The engine did not answer in time: try again, or ask for fewer tokens."
    return Refusal(HTTPStatus.GATEWAY_TIMEOUT, "engine_timeout", message)


def internal() -> Refusal:
    """A fault of the gateway's own."""
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "The gateway failed: its log has the reason.")
