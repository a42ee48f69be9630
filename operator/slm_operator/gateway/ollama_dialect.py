"""Ollama's API as one of the gateway's dialects."""

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from slm_operator.gateway.dialect import Dialect
from slm_operator.gateway.directory import Service
from slm_operator.gateway.ollama import JSON, NDJSON
from slm_operator.gateway.ollama_answer import Moment, Timing, build_head, build_part, translate_answer
from slm_operator.gateway.ollama_catalog import Served
from slm_operator.gateway.ollama_errors import OllamaError, model_not_found, translate_error, write_json
from slm_operator.gateway.ollama_request import Call
from slm_operator.gateway.ollama_stream import StreamTranslator
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal, engine_failed

NOTES = "x-slm-left-out"
"""Header that names what of a request has no counterpart in OpenAI's API."""
UNFIT = re.compile(r"[^ -~]")
"""What may not stand in a header: names of options are the client's text."""
LONGEST_NOTES = 2048


class OllamaErrors(Dialect):
    """The dialect of requests that no engine answers."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def error(self, refusal: Refusal) -> bytes:
        """See ``Dialect``. Clients look for Ollama's own sentence about a model before they pull it."""
        if refusal.code == "model_not_found" and self._record.model:
            return model_not_found(self._record.model).body
        return OllamaError(refusal.message, refusal.status).body


class Ollama(OllamaErrors):
    """The dialect of one request to an engine."""

    def __init__(self, call: Call, record: Record) -> None:
        super().__init__(record)
        self._call = call
        self._timing = Timing(time.monotonic_ns())
        self._translator = StreamTranslator(call, self._timing)
        self._notes = {NOTES: UNFIT.sub("?", "; ".join(call.notes))[:LONGEST_NOTES]} if call.notes else {}
        self.stream_headers = self.headers({})

    @property
    def keep_alive(self) -> bytes:
        """See ``Dialect``. A piece without text: lines without JSON are errors to clients."""
        part = {**build_head(self._call, now()), **build_part(self._call), "done": False}
        return json.dumps(part).encode() + b"\n"

    @property
    def broken(self) -> bool:
        """See ``Dialect``."""
        return self._translator.failed

    def engine_error(self, status: int, body: bytes) -> bytes:
        """See ``Dialect``."""
        return translate_error(status, body).body

    def failure(self, refusal: Refusal) -> bytes:
        """See ``Dialect``."""
        return self._translator.fail(refusal.message)

    def whole(self, body: bytes) -> bytes:
        """See ``Dialect``."""
        self._held()
        try:
            answer = translate_answer(self._call, body, self._timing, now())
        except OllamaError as problem:
            raise engine_failed() from problem
        return write_json(answer)

    def piece(self, piece: bytes) -> bytes:
        """See ``Dialect``."""
        self._held()
        return self._translator.feed(piece, now())

    def finish(self) -> bytes:
        """See ``Dialect``."""
        return self._translator.finish(now())

    def headers(self, given: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """See ``Dialect``."""
        return {"content-type": NDJSON if self._call.stream else JSON, **self._notes}

    def _held(self) -> None:
        """The time in which an engine was waited for is Ollama's time of loading."""
        self._timing.load = round((self._record.admitted - self._record.arrived) * 1e9)


def now() -> Moment:
    """The time, in both of the ways in which answers need it."""
    return Moment(datetime.now(UTC), time.monotonic_ns())


CAPABILITIES = {"generate": ("completion", "tools"), "embed": ("embedding",)}
"""Ollama's names of what a service's task is for."""


def describe_served(service: Service, name: str) -> Served:
    """A service under a name by which it can be called."""
    about = service.about
    return Served(
        name,
        datetime.fromtimestamp(service.created, UTC),
        service.digest.removeprefix("sha256:"),
        about.size_bytes,
        about.format,
        family=about.family,
        parameters=about.parameters,
        quantization=about.variant,
        license=about.license,
        context_size=about.context_size,
        capabilities=(*CAPABILITIES.get(about.task, ()), *(["vision"] if about.sees else [])),
        running=bool(service.endpoints),
        memory_bytes=about.memory_bytes,
        on_gpu=about.on_gpu,
    )
