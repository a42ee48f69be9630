"""One gateway process: what it listens on, and what each path leads to."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import unquote

from aiohttp import HttpVersion10, HttpVersion11, web

from slm_operator.gateway import refusal as refusals
from slm_operator.gateway.access import Access, Caller
from slm_operator.gateway.admission import Admissions, Demand
from slm_operator.gateway.asking import Ask, read_ask
from slm_operator.gateway.body import read_body
from slm_operator.gateway.directory import Directory, Service
from slm_operator.gateway.engines import Engines
from slm_operator.gateway.headers import SERVER, RequestIds
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.proxy import Exchange, Proxy
from slm_operator.gateway.record import Observer, Record
from slm_operator.gateway.refusal import Refusal
from slm_operator.gateway.reply import Stream, refused, whole

LOG = logging.getLogger(__name__)
MESSAGES = "/v1/messages"
FORWARDED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", MESSAGES})
"""The only paths that engines see."""
MODELS = "/v1/models"
UNKNOWN = "unknown"
VERSIONS = (HttpVersion11, HttpVersion10)

Check = Callable[[], None]
"""Called before each request that would be forwarded; raises Refusal while none may be."""
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
        self.admissions = Admissions(directory, self.limits, demand)
        self._directory = directory
        self._access = access
        self._observers: tuple[Observer, ...] = ()
        self._check = check
        self._engines = Engines(self.limits)
        self._proxy = Proxy(self._engines, self.admissions, self.limits)
        self._ids = RequestIds()
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._ending = False

    def observe_with(self, *observers: Observer) -> None:
        """Tell these of each request, when it has ended."""
        self._observers = observers

    def end(self) -> None:
        """Answers under way go on; /readyz says that no new ones should come."""
        self._ending = True

    async def close(self) -> None:
        """End connections to engines."""
        self.admissions.close()
        self._engines.close()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request; errors of every kind become answers here."""
        # As it came: no decoding, no dots taken out, so that no spelling of a path leads to another.
        path, _, _ = request.raw_path.partition("?")
        if request.method == "GET" and path in {"/healthz", "/readyz"}:
            return self._health(ready=path == "/readyz")
        answer, route = self._answer_to(request, path)
        record = Record(self._ids.of(request.headers), route, self._now())
        try:
            response = await self._guarded(answer, request, record)
            record.status = response.status
        except (asyncio.CancelledError, ConnectionError):
            record.verdict = "cancelled"
            raise
        else:
            return response
        finally:
            record.ended = self._now()
            # After the answer has gone out, which happens before the event loop goes on.
            self._loop.call_soon(self._tell, record)

    def _tell(self, record: Record) -> None:
        for observe in self._observers:
            observe(record)

    async def _guarded(self, answer: Answer, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        anthropic = record.route == MESSAGES
        try:
            response = await answer(request, record)
            record.verdict = record.verdict or "ok"
        except Refusal as refusal:
            record.verdict = refusal.code
            response = refused(refusal, record.request_id, anthropic=anthropic)
        except ConnectionError:
            raise  # The client's: an engine's have become refusals.
        except Exception:
            LOG.exception("request %s", record.request_id)
            record.verdict = "internal_error"
            response = refused(refusals.internal(), record.request_id, anthropic=anthropic)
        return response

    def _answer_to(self, request: web.BaseRequest, path: str) -> tuple[Answer, str]:
        """What answers, and what metrics and audit call it: one of a few names, whatever the path."""
        if request.version not in VERSIONS:
            return self._no_version, UNKNOWN
        if request.method == "POST" and path in FORWARDED:
            return self._forward, path
        if request.method == "GET" and (path == MODELS or path.startswith(MODELS + "/")):
            return self._models, MODELS
        return self._unknown, UNKNOWN

    async def _no_version(self, _request: web.BaseRequest, _record: Record) -> web.StreamResponse:
        raise refusals.bad_request("This is no HTTP that the gateway understands: use HTTP/1.1.")

    async def _unknown(self, _request: web.BaseRequest, _record: Record) -> web.StreamResponse:
        raise refusals.no_such_path()

    async def _forward(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        self._check()
        # Who asks comes first: strangers send no bodies.
        caller = await self._identify(request, record)
        ask = read_ask(await read_body(request, self.limits))
        record.model, record.stream = ask.model, ask.stream
        service = record.service = await self._find(ask.model, caller)
        self._access.begin(caller, record.arrived)
        try:
            return await self._answer(request, record, ask, service)
        finally:
            self._access.end(caller, record.prompt_tokens + record.completion_tokens)

    async def _identify(self, request: web.BaseRequest, record: Record) -> Caller:
        caller = await self._access.identify(request.headers)
        record.caller = caller.name
        return caller

    async def _find(self, model: str, caller: Caller) -> Service:
        service = self._directory.find(model, caller.namespace)
        if service is None or not await self._access.may_use(caller, service):
            raise refusals.no_such_model(model)
        return service

    async def _answer(self, request: web.BaseRequest, record: Record, ask: Ask, service: Service) -> web.StreamResponse:
        stream = Stream(request, record.request_id, self.limits.keep_alive_seconds) if ask.stream else None
        exchange = Exchange(request, record.route, ask, service, record, stream)
        try:
            return await self._proxy.forward(exchange)
        except Refusal as refusal:
            # The exchange has a stream too where the engine streams unasked.
            if exchange.stream is None or not await self._has_begun(exchange.stream):
                raise
            record.verdict = "truncated" if exchange.stream.passed else refusal.code
            return await exchange.stream.fail(refusal, anthropic=record.route == MESSAGES)
        finally:
            if exchange.stream is not None:
                await exchange.stream.hush()

    @staticmethod
    async def _has_begun(stream: Stream) -> bool:
        await stream.hush()
        return stream.begun

    async def _models(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        caller = await self._identify(request, record)
        # Clients escape the slash in a model's name. It only leads to a name, never to a path.
        wanted = unquote(request.raw_path.partition("?")[0].removeprefix(MODELS).removeprefix("/"))
        if wanted:
            document = _model(await self._find(wanted, caller))
        else:
            services = self._directory.services()
            allowed = [_model(each) for each in services if await self._access.may_use(caller, each)]
            document = {"object": "list", "data": allowed}
        return whole(HTTPStatus.OK, json.dumps(document).encode(), _own_headers(record.request_id))

    def _health(self, *, ready: bool) -> web.StreamResponse:
        status = HTTPStatus.SERVICE_UNAVAILABLE if ready and self._ending else HTTPStatus.OK
        return whole(status, b"ending\n" if ready and self._ending else b"ok\n", {"Server": SERVER})


def _model(service: Service) -> dict[str, object]:
    return {"id": service.key, "object": "model", "created": service.created, "owned_by": service.namespace}


def _own_headers(request_id: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "X-Request-Id": request_id, "Server": SERVER}
