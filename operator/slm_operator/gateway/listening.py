"""Sockets: aiohttp's HTTP server with our bounds and our shape of errors."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CONTENT_TYPE_LATEST

from slm_operator.gateway.app import Gateway
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.refusal import Refusal, internal
from slm_operator.gateway.reply import refused

BACKLOG = 4096
LINGERING_SECONDS = 2.0
"""How long the rest of a refused body is read, so that the client sees the answer and not a reset connection."""

FRESH_SECONDS = 1.0
"""How long a gateway that ends waits for the first request of a connection."""

IDLE_PERIOD_SECONDS = 0.05
"""Between looks, while it ends, at which connections wait for a request."""

CUTTING_SECONDS = 0.1
"""How long aiohttp waits twice, for what is to be cut off after the time for draining: nothing is expected of it."""


class _Connection(RequestHandler):
    """One client. What aiohttp itself refuses gets an answer in OpenAI's shape, which says nothing of the inside."""

    __slots__ = ("_unread_bytes", "_unread_seconds", "_unread_timer")

    def __init__(self, manager: web.Server, limits: Limits) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None switches it off
            auto_decompress=False,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=LINGERING_SECONDS,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.header_count,
        )
        self._unread_seconds = limits.unread_seconds
        self._unread_bytes = 0
        self._unread_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client does not read as fast as is written for it."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        """The client has read nearly all."""
        self._forget_unread()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._forget_unread()
        super().connection_lost(exc)

    def close_idle(self, *, fresh: bool) -> None:
        """Close it where it waits for a request; for its first one only if ``fresh``.

        Aiohttp's own ``close`` would also drop the rest of a body that is on its way, and a connection that was made in
        this moment would wait with it for ever.
        """
        if self._waiter is not None and not self._waiter.done() and (fresh or self._request_count):
            self.force_close()

    def _watch_unread(self) -> None:
        """While it is paused nothing is added, so what is there gets less when anything is read."""
        if self.transport is not None:
            self._unread_bytes = self.transport.get_write_buffer_size()
            self._unread_timer = self._loop.call_later(self._unread_seconds, self._check_unread)

    def _check_unread(self) -> None:
        if self.transport is not None and self.transport.get_write_buffer_size() >= self._unread_bytes:
            self.transport.abort()
        else:
            self._watch_unread()

    def _forget_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # The client has left while it was written to: nobody's fault, and nobody to tell.
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.logger.error("answering failed", exc_info=exc)
            refusal = internal()
        else:
            refusal = Refusal(status, "invalid_http", "This is no HTTP that the gateway understands.")
        response = refused(refusal, "-")
        response.force_close()
        return response


class _Server(web.Server):
    """Makes connections, up to a number."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, handler_cancellation=True)
        self._limits = gateway.limits

    def __call__(self) -> RequestHandler:
        return _Connection(self, self._limits)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()

    async def drain(self, seconds: float) -> None:
        """Close each connection once nothing is under way on it, and after so long those on which something still is.

        Who has just connected is about to ask, and gets an answer.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while self.connections and loop.time() - begun < seconds:
            fresh = loop.time() - begun > FRESH_SECONDS
            for connection in self.connections:
                connection.close_idle(fresh=fresh)  # type: ignore[attr-defined]
            await asyncio.sleep(IDLE_PERIOD_SECONDS)
        await self.shutdown(CUTTING_SECONDS)


class Listener:
    """A gateway on a port."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._server = _Server(gateway)
        self._sockets: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._last: list[asyncio.Task[None]] = []
        self.port = 0

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._server.connections)

    async def listen(self, host: str | Sequence[str], port: int, tls: ssl.SSLContext | None = None) -> None:
        """Bind; 0 takes a free port, which ``port`` then tells. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        self._tls = tls
        self._sockets = await loop.create_server(self._server, host, port, backlog=BACKLOG, ssl=tls)
        self.port = self._sockets.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Accept nobody but who has connected by now; the port is free."""
        self._gateway.end()
        if self._sockets is not None:
            for each in self._sockets.sockets:
                self._accept_waiting(each.fileno())
            self._sockets.close()

    def _accept_waiting(self, listening: int) -> None:
        """Accept those whom the kernel has let in: it would reset their connections when it closes the socket."""
        loop = asyncio.get_running_loop()
        with socket.socket(fileno=os.dup(listening)) as queue, contextlib.suppress(OSError):
            queue.settimeout(0)
            while True:  # Until nobody waits: that is an OSError.
                client, _ = queue.accept()
                self._last.append(loop.create_task(self._accept(client)))

    async def _accept(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # Of TLS, too: who fails to greet is nobody's fault.
            await asyncio.get_running_loop().connect_accepted_socket(self._server, client, ssl=self._tls)

    async def close(self, seconds: float) -> None:
        """Accept nobody, close what is idle, and give answers under way so long to end."""
        self.stop_listening()
        if self._last:
            await asyncio.wait(self._last, timeout=FRESH_SECONDS)
        await self._server.drain(seconds)
        await self._gateway.close()


def any_addresses() -> list[str]:
    """All of this machine's, of the families that it has: a pod with IPv4 alone often cannot bind to IPv6's."""
    found = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - that is its purpose
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.bind((address, 0))
            found.append(address)
    return found


async def listen_for_metrics(
    metrics: Callable[[], bytes], host: str | Sequence[str], port: int, trouble: Callable[[], str] = lambda: ""
) -> asyncio.Server:
    """Offer /metrics and /healthz, on a port of its own: clients have no business there, and cannot fill it.

    ``trouble`` is a sentence on what only a restart helps against, or nothing. Raises OSError when the port is taken.
    """

    async def answer(request: web.BaseRequest) -> web.Response:
        wanted = (request.method, request.raw_path)
        if wanted == ("GET", "/metrics"):
            return web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        if wanted == ("GET", "/healthz"):
            sentence = trouble()
            status = HTTPStatus.SERVICE_UNAVAILABLE if sentence else HTTPStatus.OK
            return web.Response(status=status, text=f"{sentence or 'ok'}\n")
        return web.Response(status=HTTPStatus.NOT_FOUND)

    server = web.Server(answer, access_log=None)
    return await asyncio.get_running_loop().create_server(server, host, port)
