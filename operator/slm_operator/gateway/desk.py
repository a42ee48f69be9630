"""What every API has in common: who asks, for which service, and the way of a request to an engine and back."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import compress

from aiohttp import web

from slm_operator.gateway import refusal as refusals
from slm_operator.gateway.access import Access, Caller
from slm_operator.gateway.asking import Ask
from slm_operator.gateway.body import Bodies
from slm_operator.gateway.dialect import Dialect
from slm_operator.gateway.directory import Directory, Service
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.proxy import MESSAGES, Exchange, Proxy
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal
from slm_operator.gateway.reply import Stream

TASKS, GENERATE = {"/v1/embeddings": "embed", "/v1/rerank": "rerank"}, "generate"
"""``spec.task`` of a service, by the path that asks for it."""
LISTED = 8
"""Services of one listing about which the cluster is asked at a time: others want to know whom they may ask, too."""
LOG = logging.getLogger(__name__)
Check = Callable[[], None]
"""Called before each request that would be answered; raises Refusal while none may be."""


class Desk:
    """Takes requests in."""

    def __init__(self, directory: Directory, access: Access, proxy: Proxy, limits: Limits, check: Check) -> None:
        self._directory = directory
        self._access = access
        self._proxy = proxy
        self._limits = limits
        self._check = check
        self._bodies = Bodies(limits)

    def check(self) -> None:
        """Raise Refusal while no request may be answered."""
        self._check()

    async def identify(self, request: web.BaseRequest, record: Record) -> Caller:
        """Who asks; raises Refusal. It comes first: strangers send no bodies."""
        caller = await self._access.identify(request.headers)
        record.caller = caller.name
        return caller

    async def read(self, request: web.BaseRequest, record: Record) -> bytes:
        """The request's body; raises Refusal."""
        return await self._bodies.read(request, record)

    def end(self, record: Record) -> None:
        """The request has ended: nothing of it is kept."""
        self._bodies.release(record)

    async def find(self, model: str, caller: Caller) -> Service:
        """The service that the caller means and may use; raises Refusal."""
        service = self._directory.find(model, caller.namespace)
        if service is None or not await self._access.may_use(caller, service):
            raise refusals.no_such_model(model)
        return service

    async def allowed(self, caller: Caller) -> list[Service]:
        """All services that the caller may use, and those with each of their adapters."""
        services, turn = self._directory.services(), asyncio.Semaphore(LISTED)

        async def may_use(service: Service) -> bool:
            async with turn:
                return await self._access.may_use(caller, service)

        may = await asyncio.gather(*map(may_use, services))
        return [offer for service in compress(services, may) for offer in service.offers()]

    async def carry(
        self, request: web.BaseRequest, record: Record, caller: Caller, ask: Ask, path: str, dialect: Dialect
    ) -> web.StreamResponse:
        """Bring a request for ``record.service`` to an engine's path, and its answer back; raises Refusal."""
        assert record.service is not None  # noqa: S101 (for the type checker)
        if record.service.about.task != TASKS.get(path, GENERATE):
            raise refusals.wrong_task()  # Not every engine says so: llama.cpp has models that rank write text.
        engines = record.service.endpoints
        if path == MESSAGES and engines and all(each.numbers_adapters for each in engines):
            raise refusals.no_messages()  # The engine that is found is looked at once more.
        if record.service.adapter and ask.prefix:  # What an engine has cached is of one adapter.
            ask = replace(ask, prefix=f"{record.service.adapter}:{ask.prefix}")
        self._access.begin(caller, record.arrived)
        try:
            seconds = self._limits.keep_alive_seconds
            stream = Stream(request, record.request_id, seconds, dialect) if ask.stream else None
            return await self._exchange(Exchange(request, path, ask, record.service, record, stream, dialect))
        finally:
            self._access.end(caller, record.prompt_tokens + record.completion_tokens)

    async def _exchange(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._proxy.forward(exchange)
        except ConnectionError:
            raise  # The client's.
        except Exception as problem:
            # The exchange has a stream too where the engine streams unasked.
            if exchange.stream is None or not await _has_begun(exchange.stream):
                raise
            refusal = _refusal(problem, exchange.record)
            exchange.record.verdict = "truncated" if exchange.stream.passed else refusal.code
            return await exchange.stream.fail(refusal)
        finally:
            if exchange.stream is not None:
                await exchange.stream.hush()


def _refusal(problem: Exception, record: Record) -> Refusal:
    """A client that has a part of an answer is told of our own faults too, and as all others are."""
    if isinstance(problem, Refusal):
        return problem
    LOG.error("request %s", record.request_id, exc_info=problem)
    return refusals.internal()


async def _has_begun(stream: Stream) -> bool:
    await stream.hush()
    return stream.begun
