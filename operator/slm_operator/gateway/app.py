"""One gateway process: what it listens on, and what each path leads to."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import unquote

from aiohttp import HttpVersion10, HttpVersion11, web

from slm_operator.gateway import ollama_front
from slm_operator.gateway import refusal as refusals
from slm_operator.gateway.access import Access
from slm_operator.gateway.admission import Admissions, Demand
from slm_operator.gateway.asking import read_ask
from slm_operator.gateway.desk import Check, Desk
from slm_operator.gateway.dialect import ANTHROPIC, OPENAI, Dialect
from slm_operator.gateway.directory import Directory, Service
from slm_operator.gateway.engines import Engines
from slm_operator.gateway.headers import SERVER, RequestIds, own_headers
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.ollama import ENGINE_PATHS
from slm_operator.gateway.ollama_dialect import OllamaErrors
from slm_operator.gateway.ollama_front import OllamaFront
from slm_operator.gateway.proxy import MESSAGES, Proxy
from slm_operator.gateway.record import Observer, Record
from slm_operator.gateway.refusal import Refusal
from slm_operator.gateway.reply import refused, whole

LOG = logging.getLogger(__name__)
FORWARDED = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/responses", MESSAGES}
)
"""The only paths that engines see."""
MODELS = "/v1/models"
UNKNOWN, OLLAMA = "unknown", "/api"
"""What paths are called that are none of ours."""
FAILED = frozenset({"engine_failed", "engine_timeout", "truncated"})
"""Verdicts whose reason clients are told to look for in the log."""
TELLING_SECONDS = 2.0
"""Longest wait for requests that were cut off to be told of: they need a few passes of the event loop."""
VERSIONS = (HttpVersion11, HttpVersion10)

Answer = Callable[[web.BaseRequest, Record], Awaitable[web.StreamResponse]]


class Gateway:
    """Answers requests. Made within the event loop that serves them; ``close`` ends it."""

    def __init__(
        self,
        directory: Directory,
        access: Access,
        limits: Limits | None = None,
        *,
        demand: Demand = lambda *_: None,
        check: Check = lambda: None,
    ) -> None:
        self.limits = limits or Limits()
        self._observers: tuple[Observer, ...] = ()
        self._engines = Engines(self.limits)
        self.admissions = Admissions(directory, self.limits, demand, self._engines.forget)
        proxy = Proxy(self._engines, self.admissions, self.limits)
        self._desk = Desk(directory, access, proxy, self.limits, check)
        self._ollama = OllamaFront(self._desk)
        self._ids = RequestIds()
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._ending = False
        self._untold = 0
        self._told = asyncio.Event()

    def observe_with(self, *observers: Observer) -> None:
        """Tell these of each request, when it has ended."""
        self._observers = observers

    def end(self) -> None:
        """Answers under way go on; /readyz says that no new ones should come."""
        self._ending = True

    async def close(self) -> None:
        """End connections to engines, once all requests that came have been told of: the audit is closed after this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELLING_SECONDS):
                while self._untold:
                    self._told.clear()
                    await self._told.wait()
        self.admissions.close()
        self._engines.close()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request; errors of every kind become answers here."""
        # As it came: no decoding, no dots taken out, so that no spelling of a path leads to another.
        path, _, _ = request.raw_path.partition("?")
        if request.method == "GET" and path in {"/healthz", "/readyz"}:
            return self._closing(self._health(ready=path == "/readyz"))
        answer, route = self._answer_to(request, path)
        record = Record(self._ids.of(request.headers), route, self._now())
        self._untold += 1
        try:
            response = self._closing(await self._guarded(answer, request, record))
            record.status = response.status
        except (asyncio.CancelledError, ConnectionError):
            record.verdict = "cancelled"
            raise
        else:
            return response
        finally:
            record.ended = self._now()
            self._desk.end(record)
            # After the answer has gone out, which happens before the event loop goes on.
            self._loop.call_soon(self._tell, record)

    def _closing(self, response: web.StreamResponse) -> web.StreamResponse:
        """Say that an answer is its connection's last, so that the client sends its next request elsewhere."""
        if self._ending:
            response.force_close()
        return response

    def _tell(self, record: Record) -> None:
        if record.verdict in FAILED:
            LOG.warning("request %s: engine %s failed (%s)", record.request_id, record.endpoint, record.verdict)
        for observe in (self.admissions.observe, *self._observers):
            try:
                observe(record)
            except Exception:  # Of the metrics, say: the audit is told all the same.
                LOG.exception("request %s was not observed", record.request_id)
        self._untold -= 1
        self._told.set()

    async def _guarded(self, answer: Answer, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        try:
            response = await answer(request, record)
            record.verdict = record.verdict or "ok"
        except Refusal as refusal:
            record.verdict = refusal.code
            response = refused(refusal, record.request_id, _dialect_of(record))
        except ConnectionError:
            raise  # The client's: an engine's have become refusals.
        except Exception:
            LOG.exception("request %s", record.request_id)
            record.verdict = "internal_error"
            response = refused(refusals.internal(), record.request_id, _dialect_of(record))
        return response

    def _answer_to(self, request: web.BaseRequest, path: str) -> tuple[Answer, str]:
        """What answers, and what metrics and audit call it: one of a few names, whatever the path."""
        if request.version not in VERSIONS:
            return self._no_version, UNKNOWN
        if path in FORWARDED:
            return (self._forward if request.method == "POST" else self._wrong_method("POST")), path
        if path == MODELS or path.startswith(MODELS + "/"):
            return (self._models if request.method == "GET" else self._wrong_method("GET")), MODELS
        if path == ollama_front.ROOT or path.startswith(ollama_front.PREFIX):
            return self._answer_to_ollama(request.method, path)
        return self._unknown, UNKNOWN

    def _answer_to_ollama(self, method: str, path: str) -> tuple[Answer, str]:
        if method == "POST" and path in ENGINE_PATHS:
            return self._ollama.forward, path
        return self._ollama.answer, path if path in ollama_front.ROUTES else OLLAMA

    async def _no_version(self, _request: web.BaseRequest, _record: Record) -> web.StreamResponse:
        raise refusals.bad_request("This is no HTTP that the gateway understands: use HTTP/1.1.")

    async def _unknown(self, _request: web.BaseRequest, _record: Record) -> web.StreamResponse:
        raise refusals.no_such_path()

    def _wrong_method(self, allowed: str) -> Answer:
        async def refuse(_request: web.BaseRequest, _record: Record) -> web.StreamResponse:
            raise refusals.wrong_method(allowed)

        return refuse

    async def _forward(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        self._desk.check()
        caller = await self._desk.identify(request, record)
        ask = read_ask(await self._desk.read(request, record))
        record.model, record.stream = ask.model, ask.stream
        record.service = await self._desk.find(ask.model, caller)
        return await self._desk.carry(request, record, caller, ask, record.route, _dialect_of(record))

    async def _models(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        self._desk.check()
        caller = await self._desk.identify(request, record)
        # Clients escape the slash in a model's name. It only leads to a name, never to a path.
        wanted = unquote(request.raw_path.partition("?")[0].removeprefix(MODELS).removeprefix("/"))
        if wanted:
            document = _model(await self._desk.find(wanted, caller))
        else:
            document = {"object": "list", "data": [_model(each) for each in await self._desk.allowed(caller)]}
        return whole(HTTPStatus.OK, json.dumps(document).encode(), own_headers(record.request_id))

    def _health(self, *, ready: bool) -> web.StreamResponse:
        status = HTTPStatus.SERVICE_UNAVAILABLE if ready and self._ending else HTTPStatus.OK
        return whole(status, b"ending\n" if ready and self._ending else b"ok\n", {"Server": SERVER})


def _dialect_of(record: Record) -> Dialect:
    """How errors are told on a route."""
    if record.route == MESSAGES:
        return ANTHROPIC
    return OllamaErrors(record) if record.route.startswith(OLLAMA) else OPENAI


def _model(service: Service) -> dict[str, object]:
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": service.namespace}
