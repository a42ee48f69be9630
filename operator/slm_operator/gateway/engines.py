"""The pool of connections to engines, and what can go wrong on them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping

from slm_operator.gateway.connection import Broken, EngineConnection, TooLarge, TooSlow
from slm_operator.gateway.directory import Endpoint
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.refusal import Refusal, engine_failed, engine_silent

LOG = logging.getLogger(__name__)
UNAVAILABLE = 503
POOLED_SECONDS = 4.0
"""Idle connections are closed before engines close them, which both do after 5 s: llama-server by cpp-httplib's
CPPHTTPLIB_KEEPALIVE_TIMEOUT_SECOND, vLLM by VLLM_HTTP_TIMEOUT_KEEP_ALIVE."""


class NotTaken(Exception):
    """The engine gave no byte of an answer; another may be asked."""

    def __init__(self, *, received: bool) -> None:
        super().__init__()
        self.received = received
        """Whether it may have had the whole request, and perhaps died of it."""


class Engines:
    """Connections that are kept between requests. Made within the event loop that uses it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle: defaultdict[Endpoint, list[EngineConnection]] = defaultdict(list)
        self._loop = asyncio.get_running_loop()
        self._sweep = self._loop.call_later(POOLED_SECONDS, self._close_idle)

    def close(self) -> None:
        """Close all connections that are idle."""
        self._sweep.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()

    async def ask(self, endpoint: Endpoint, path: str, headers: Mapping[str, str], body: bytes) -> EngineConnection:
        """The answer's head; give the connection to ``done``. Raises NotTaken, or Refusal: ask nobody else."""
        head, pooled = _head_of(endpoint, path, headers, len(body)), self._pooled(endpoint)
        if pooled is None:
            return await self._send(await self._connect(endpoint), endpoint, head, body)
        try:
            return await self._send(pooled, endpoint, head, body)
        except NotTaken as problem:
            if pooled.heard or not problem.received:
                raise
        # Either the engine had closed it meanwhile, since it was idle (llama-server does so after each stream, whatever
        # its headers say), or it died of this request: a new connection tells which.
        try:
            connection = await self._connect(endpoint)
        except NotTaken as problem:
            raise NotTaken(received=True) from problem
        return await self._send(connection, endpoint, head, body)

    async def _send(
        self, connection: EngineConnection, endpoint: Endpoint, head: bytes, body: bytes
    ) -> EngineConnection:
        """The connection once the answer has begun on it."""
        try:
            connection.send(head, body, self._limits.silence_seconds, self._limits.total_seconds)
            if await connection.head() != UNAVAILABLE:
                return connection
        except TooSlow:
            raise engine_silent() from None
        except Broken as problem:
            LOG.warning("%s gave no answer: %s", endpoint.id, problem)
            connection.abort()
            raise NotTaken(received=True) from problem
        except asyncio.CancelledError:
            connection.abort()
            raise
        connection.abort()
        raise NotTaken(received=False)

    def done(self, endpoint: Endpoint, connection: EngineConnection, *, keep: bool) -> None:
        """The answer is of no more use: where it was not read to its end, the engine stops at once.

        ``keep``: the engine takes further requests.
        """
        if not connection.finish():
            return
        if keep:
            self._idle[endpoint].append(connection)
        else:
            connection.abort()

    def forget(self, endpoint: Endpoint) -> None:
        """The engine is about to end, for which it waits until nobody is connected."""
        for connection in self._idle.pop(endpoint, ()):
            connection.abort()

    def _pooled(self, endpoint: Endpoint) -> EngineConnection | None:
        connections = self._idle.get(endpoint)
        while connections:
            connection = connections.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self, endpoint: Endpoint) -> EngineConnection:
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                _, connection = await self._loop.create_connection(EngineConnection, endpoint.host, endpoint.port)
        except (OSError, TimeoutError) as problem:
            LOG.warning("%s could not be reached: %s", endpoint.id, problem)
            raise NotTaken(received=False) from problem
        return connection

    def _close_idle(self) -> None:
        oldest = self._loop.time() - POOLED_SECONDS
        for endpoint, connections in list(self._idle.items()):
            for connection in connections:
                if connection.idle_since < oldest:
                    connection.abort()
            self._idle[endpoint] = [each for each in connections if each.reusable]
            if not self._idle[endpoint]:
                del self._idle[endpoint]
        self._sweep = self._loop.call_later(POOLED_SECONDS / 4, self._close_idle)


def failed(problem: Broken, *, passed: bool) -> Refusal | NotTaken:
    """What a broken answer means: another engine may be asked as long as nothing was passed on.

    One that is too large would be so from any of them.
    """
    if isinstance(problem, TooSlow):
        return engine_silent()
    if passed or isinstance(problem, TooLarge):
        return engine_failed()
    return NotTaken(received=True)


def _head_of(endpoint: Endpoint, path: str, headers: Mapping[str, str], size: int) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{endpoint.port}\r\n{lines}Content-Length: {size}\r\n\r\n"
    return head.encode("utf-8", "surrogateescape")
