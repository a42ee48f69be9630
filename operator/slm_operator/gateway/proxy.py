"""From a request that may be answered to an engine's answer."""

import asyncio
import logging
import re
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from slm_operator.gateway import resuming
from slm_operator.gateway.adapters import body_for
from slm_operator.gateway.admission import Admission, Admissions
from slm_operator.gateway.asking import Ask
from slm_operator.gateway.connection import Broken, EngineConnection, TooLarge, TooSlow
from slm_operator.gateway.dialect import EVENT_STREAM, Dialect
from slm_operator.gateway.directory import Endpoint, Service
from slm_operator.gateway.engines import Engines, NotTaken, failed
from slm_operator.gateway.headers import headers_to_client, headers_to_engine
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import (
    Refusal,
    engine_failed,
    held_too_long,
    no_messages,
    unsupported_media,
    wrong_task,
)
from slm_operator.gateway.reply import Stream, whole
from slm_operator.gateway.resuming import Transcript
from slm_operator.gateway.usage import BYTES_PER_TOKEN, StreamUsage, Usage, usage_in

LOG = logging.getLogger(__name__)
MESSAGES = "/v1/messages"
"""Anthropic's API, in which llama.cpp drops the field that picks an adapter."""
PASSED_CLIENT_ERRORS = range(400, 500)
"""What an engine says of a request that it cannot answer is for the client: too long a prompt, an unknown field."""
NOT_THE_CLIENTS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.FORBIDDEN)
"""An engine that asks for a key of its own is set up wrongly; its words would send the client after the wrong key."""

TAKES_NO_MEDIA = re.compile(rb"(?:image|audio|video) input is not supported")
"""llama-server's words, with status 500, for media without a projector (tools/server/server-common.cpp)."""


@dataclass(slots=True)
class Exchange:
    """One request on its way."""

    request: web.BaseRequest
    path: str
    ask: Ask
    service: Service
    record: Record
    stream: Stream | None
    """Where the answer is to be streamed."""
    dialect: Dialect
    transcript: Transcript | None = None
    """What of a stream has been passed on, where another engine could go on with it."""
    resumed: Ask | None = None
    """What is asked for the rest of it."""


class Interrupted(Exception):
    """An engine crashed in the middle of a stream with which another one may go on."""


class Proxy:
    """Finds an engine for each request and passes the answer on; another one takes over where the first fails."""

    def __init__(self, engines: Engines, admissions: Admissions, limits: Limits) -> None:
        self._engines = engines
        self._admissions = admissions
        self._limits = limits

    async def forward(self, exchange: Exchange) -> web.StreamResponse:
        """The answer, which has been sent where it is a stream; raises Refusal."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.hold_seconds
        received = 0
        while True:
            admission = self._admissions.of(exchange.service)  # Anew: a service can be replaced by one of its name.
            endpoint = await self._admit(exchange, admission, deadline)
            try:
                return await self._try(exchange, admission, endpoint)
            except NotTaken as problem:
                received += problem.received
                if problem.received or endpoint.canary:
                    exchange.record.failed.add(endpoint.canary)
                if received > self._limits.resends:
                    raise engine_failed() from problem
                admission.cool(endpoint)
                if loop.time() >= deadline:
                    raise held_too_long(exchange.service.key, self._limits) from problem
            except Interrupted as problem:
                received += 1
                exchange.record.failed.add(endpoint.canary)
                if received > self._limits.resends or not _resume(exchange):
                    raise engine_failed() from problem
                admission.cool(endpoint)
                deadline = loop.time() + self._limits.hold_seconds
            finally:
                admission.release(endpoint)

    async def _admit(self, exchange: Exchange, admission: Admission, deadline: float) -> Endpoint:
        record = exchange.record
        again = record.attempts > 0
        ask, adapter = exchange.ask, exchange.service.adapter
        endpoint = admission.try_take(ask.prefix, adapter, again=again)
        now = asyncio.get_running_loop().time()
        if endpoint is None:
            endpoint = await admission.take(ask.prefix, len(ask.body), max(0.0, deadline - now), adapter, again=again)
            now = asyncio.get_running_loop().time()
        record.admitted = now
        record.attempts += 1
        record.endpoint = endpoint.id
        record.canary = endpoint.canary
        record.digest = endpoint.digest or exchange.service.digest
        return endpoint

    async def _try(self, exchange: Exchange, admission: Admission, endpoint: Endpoint) -> web.StreamResponse:
        headers = headers_to_engine(exchange.request.headers, exchange.record.request_id)
        if exchange.path == MESSAGES and endpoint.numbers_adapters:
            raise no_messages()
        body = body_for(exchange.resumed or exchange.ask, exchange.service, endpoint)
        answer = await self._engines.ask(endpoint, exchange.path, headers, body)
        try:
            if answer.status == HTTPStatus.OK and answer.headers.get("content-type", "").startswith(EVENT_STREAM):
                return await self._stream(exchange, answer)
            return await self._whole(exchange, answer)
        finally:
            self._engines.done(endpoint, answer, keep=admission.has(endpoint))

    async def _whole(self, exchange: Exchange, answer: EngineConnection) -> web.StreamResponse:
        try:
            body = await answer.read_all(self._limits.answer_bytes)
        except Broken as problem:
            raise failed(problem, passed=False) from problem
        record = exchange.record
        if answer.status != HTTPStatus.OK:
            return await self._error(exchange, answer, body)
        _count(record, usage_in(body) or Usage(len(exchange.ask.body) // BYTES_PER_TOKEN, 0, estimated=True))
        headers = headers_to_client(exchange.dialect.headers(answer.headers), record.request_id)
        body = exchange.dialect.whole(body)
        if exchange.stream is not None:
            await exchange.stream.hush()
            if exchange.stream.begun:
                raise engine_failed()  # It was asked for a stream, and the client has been promised one.
        record.first_byte = asyncio.get_running_loop().time()
        return whole(answer.status, body, headers)

    async def _error(self, exchange: Exchange, answer: EngineConnection, body: bytes) -> web.StreamResponse:
        if answer.status == HTTPStatus.NOT_IMPLEMENTED:
            raise wrong_task()
        if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and TAKES_NO_MEDIA.search(body):
            raise unsupported_media()
        if answer.status not in PASSED_CLIENT_ERRORS or answer.status in NOT_THE_CLIENTS:
            raise engine_failed()
        if exchange.stream is not None:
            await exchange.stream.hush()
            if exchange.stream.begun:
                raise Refusal(answer.status, "refused_by_engine", body.decode("utf-8", "replace"))
        exchange.record.verdict = "refused_by_engine"
        headers = headers_to_client(exchange.dialect.headers(answer.headers), exchange.record.request_id)
        return whole(answer.status, exchange.dialect.engine_error(answer.status, body), headers)

    async def _stream(self, exchange: Exchange, answer: EngineConnection) -> web.StreamResponse:
        record = exchange.record
        stream = exchange.stream or Stream(
            exchange.request, record.request_id, self._limits.keep_alive_seconds, exchange.dialect
        )
        exchange.stream = stream
        if exchange.transcript is None and exchange.path in resuming.PATHS:
            exchange.transcript = Transcript()
        transcript, counts, broken = exchange.transcript, StreamUsage(), False
        if transcript is not None:
            transcript.begin()
        try:
            piece = await _next_piece(answer, None, passed=False)
            await stream.begin(answer.headers)
            record.first_byte = record.first_byte or asyncio.get_running_loop().time()
            while piece:
                if told := piece if transcript is None else transcript.take(piece):
                    # A transcript of plain text has looked, and keeps such events to itself.
                    if transcript is None or not transcript.plain:
                        broken = broken or any(map(resuming.tells_failure, told.split(resuming.END)))
                    counts.feed(told)
                    await stream.write(told)
                if transcript is not None and transcript.failed:
                    if not transcript.finished:
                        raise Interrupted
                    break
                piece = b"" if exchange.dialect.broken else await _next_piece(answer, transcript, passed=stream.passed)
            if transcript is not None and (told := transcript.close()):
                await stream.write(told)
            response = await stream.end()
            if exchange.dialect.broken or broken:
                record.verdict = "truncated"
            return response
        finally:
            _count(record, counts.result(len(exchange.ask.body)))


async def _next_piece(answer: EngineConnection, transcript: Transcript | None, *, passed: bool) -> bytes:
    """The next bytes, none at the end; raises NotTaken while nothing was passed on, and Interrupted or Refusal then."""
    try:
        return await answer.read()
    except Broken as problem:
        crashed = not isinstance(problem, TooSlow | TooLarge)
        if passed and crashed and transcript is not None:
            if transcript.finished:
                return b""
            raise Interrupted from problem
        raise failed(problem, passed=passed) from problem


def _resume(exchange: Exchange) -> bool:
    """Ask for the rest of the answer from now on; False where it cannot be asked for."""
    ask = exchange.transcript.resume(exchange.ask, exchange.path) if exchange.transcript else None
    if ask is None or exchange.stream is None:
        return False
    LOG.warning("request %s goes on with another engine", exchange.record.request_id)
    exchange.resumed = ask
    exchange.stream.wait_again()
    return True


def _count(record: Record, usage: Usage) -> None:
    record.prompt_tokens, record.completion_tokens, record.estimated = usage.prompt, usage.completion, usage.estimated
