"""A stable local address per Service: a TCP forwarder to whichever of its pods are ready.

Bytes pass through as they come, in both directions, with back-pressure; nothing is parsed, only the end of an event in
a streamed answer is recognised, so that a slow stream is not taken for an idle connection.
"""

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

HOST = "127.0.0.1"
HOLD_SECONDS = 10.0
"""How long a connection waits for a pod to become ready before it is closed."""
RETRY_SECONDS = 0.05
"""Pause before a refused pod is tried again: it is being restarted."""
QUIET_SECONDS = 1.0
"""A connection whose last bytes came from the pod this long ago waits for a next request, not for an answer."""
POLL_SECONDS = 0.05
EVENT_END, HEAD_END, LAST_CHUNK = b"\n\n\r\n", b"\r\n\r\n", b"\r\n0\r\n\r\n"
"""Ends of a chunk that holds a server-sent event, of a head, and of a chunked answer (RFC 9112, section 7.1)."""


@dataclass(eq=False)
class Link:
    """One forwarded connection."""

    port: int
    client: asyncio.Transport
    answered_at: float | None = field(default_factory=time.monotonic)
    """When the pod last sent bytes, or the client connected; None while bytes of the client are unanswered."""
    streaming: bool = False
    """Whether the pod's last bytes say that more of the same answer follows."""

    def idle(self) -> bool:
        """Whether no request seems to be under way."""
        if self.streaming or self.answered_at is None:
            return False
        return time.monotonic() - self.answered_at > QUIET_SECONDS


def is_unfinished(data: bytes) -> bool:
    """Whether bytes of a pod are the head of a chunked answer or end with an event of one."""
    if data.endswith(EVENT_END):
        return True
    return data.endswith(HEAD_END) and not data.endswith(LAST_CHUNK) and b"transfer-encoding: chunked" in data.lower()


class _Side(asyncio.Protocol):
    """One end of a connection; hands everything to the other end."""

    def __init__(self, link: Link | None = None, *, from_pod: bool = False) -> None:
        self.link = link
        self._from_pod = from_pod
        self.transport: asyncio.Transport | None = None
        self.peer: asyncio.Transport | None = None
        self.made = asyncio.get_running_loop().create_future()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()
        self.made.set_result(None)

    def join(self, peer: asyncio.Transport, link: Link) -> None:
        """Begin to forward to ``peer``."""
        self.peer, self.link = peer, link
        if self.transport and not self.transport.is_closing():
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.link:
            self.link.answered_at = time.monotonic() if self._from_pod else None
            self.link.streaming = self._from_pod and is_unfinished(data)
        if self.peer:
            self.peer.write(data)

    def eof_received(self) -> bool:
        if self.peer and self.peer.can_write_eof() and not self.peer.is_closing():
            self.peer.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer and not self.peer.is_closing():
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        if self.peer and not self.peer.is_closing():
            self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.peer:
            self.peer.close()
        if not self.lost.done():
            self.lost.set_result(None)


class Forwarder:
    """Listens on one port and balances connections over ready pods, least connections first."""

    def __init__(self) -> None:
        self.port = 0
        self._ready: tuple[int, ...] = ()
        self._changed = asyncio.Event()
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> None:
        """Bind the port; raises OSError when it is taken."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, HOST, port)
        self.port = port

    def set_ready(self, ports: tuple[int, ...]) -> None:
        """Ports of the pods that may get new connections."""
        if ports != self._ready:
            self._ready = ports
            self._changed.set()

    async def drain(self, port: int | None, limit_seconds: float) -> None:
        """Wait for requests under way on a pod's port, or on all, to end, then close the idle connections."""
        deadline = time.monotonic() + limit_seconds
        while True:
            links = [link for link in self._links if port in (None, link.port)]
            for link in links:
                if link.idle() or time.monotonic() >= deadline:
                    link.client.close()
            if not links or time.monotonic() >= deadline:
                return
            await asyncio.sleep(POLL_SECONDS)

    def stop_listening(self) -> None:
        """Free the port; what is connected goes on, and what waits for a pod gets none."""
        self.set_ready(())
        if self._server:
            self._server.close()

    async def close(self) -> None:
        """Stop listening and cut what is connected."""
        self.stop_listening()
        for link in self._links:
            link.client.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> _Side:
        side = _Side()
        task = asyncio.get_running_loop().create_task(self._serve(side))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return side

    async def _serve(self, client: _Side) -> None:
        await client.made
        assert client.transport is not None  # noqa: S101 (for the type checker)
        found = None
        try:
            found = await self._connect(client)
        finally:
            if found is None:  # Also when cancelled: nobody else knows this connection.
                client.transport.close()
        if found is None:
            return
        pod, link = found
        self._links.add(link)
        try:
            if pod.transport:
                client.join(pod.transport, link)
                pod.join(client.transport, link)
                await asyncio.wait([client.lost, pod.lost], return_when=asyncio.ALL_COMPLETED)
        finally:
            self._links.discard(link)

    async def _connect(self, client: _Side) -> tuple[_Side, Link] | None:
        """A connection to the pod with the fewest, or None when none answers in time."""
        deadline = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < deadline and client.transport and not client.lost.done():
            for port in self._by_load():
                link = Link(port, client.transport)
                self._links.add(link)  # Counts at once, so that a burst spreads.
                with contextlib.suppress(OSError):
                    _, pod = await asyncio.get_running_loop().create_connection(
                        lambda link=link: _Side(link, from_pod=True),  # type: ignore[misc]
                        HOST,
                        port,
                    )
                    return pod, link
                self._links.discard(link)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._ready else deadline - time.monotonic()):
                    await self._changed.wait()
        return None

    def _by_load(self) -> list[int]:
        load = Counter(link.port for link in self._links)
        return sorted(self._ready, key=lambda port: load[port])
