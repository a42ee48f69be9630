"""One connection to an engine: a request out, its answer in, piece by piece.

Of the processor time that a proxy made of aiohttp's client and server spends on a small request, two thirds are the
client's: redirects, cookies, proxies, compression, timers, none of which engines need. The protocol itself is read by
llhttp, through httptools.
"""

import asyncio
import socket

import httptools

BUFFER_BYTES = 256 * 2**10
"""So much of an answer is kept for a client that does not read; then the engine is not read either."""
INFORMATIONAL = 200
"""Statuses below are followed by another."""
LIVENESS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", 10),  # s of silence before the first question,
            ("TCP_KEEPINTVL", 5),  # s between two,
            ("TCP_KEEPCNT", 4),  # questions without an answer, where the next is not known,
            ("TCP_USER_TIMEOUT", 60_000),  # ms without an acknowledgement of what was sent, and of questions.
        )
        if hasattr(socket, name)  # macOS has not all of them.
    ),
)
"""An engine's node that lost its power or its network says nothing: it is given up after a minute. An engine that
only thinks for long is another matter, since its kernel answers (tcp(7))."""
HEAD_BYTES = 64 * 2**10
"""Longest head of an answer."""


def watch_liveness(found: socket.socket) -> None:
    """Give its connection up once the other side has said nothing for so long."""
    for level, name, value in LIVENESS:
        found.setsockopt(level, name, value)


class Broken(Exception):
    """The answer ended before its end, or was no HTTP."""


class TooSlow(Broken):
    """The engine was silent for too long, or took too long altogether."""


class TooLarge(Broken):
    """The answer is larger than what is read of one."""


class EngineConnection(asyncio.Protocol):
    """One at a time: ``send``, ``head``, then ``read`` until it returns nothing."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._headed = self._ended = self._framed = False
        self._problem: Exception | None = None
        self._busy = self._keeps_alive = False
        self._head_bytes = 0
        self._silence_seconds = self._deadline = self._last_heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case."""
        self.idle_since = 0.0

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._busy and self._problem is None

    @property
    def heard(self) -> bool:
        """Whether a byte of the last answer came."""
        return self._head_bytes > 0

    def send(self, head: bytes, body: bytes, silence_seconds: float, total_seconds: float) -> None:
        """Send a request, which is given up after so long a silence, or so long altogether; raises Broken.

        Both are the same for all requests on a connection.
        """
        if self._transport is None:
            raise Broken("the connection was closed")
        self._busy, self._headed, self._ended, self._framed = True, False, False, False
        self.status, self.headers, self._head_bytes = 0, {}, 0
        now = self._last_heard = self._loop.time()
        self._silence_seconds, self._deadline = silence_seconds, now + total_seconds
        if self._timer is None:  # One of an earlier request is due before this one's, and looks again then.
            self._timer = self._loop.call_at(min(now + silence_seconds, self._deadline), self._watch)
        self._transport.writelines((head, body))

    async def head(self) -> int:
        """The answer's status, once its headers are here; raises Broken."""
        while not self._headed:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """What has come since the last time, waiting for something; nothing: it was the end. Raises Broken."""
        while not self._pieces:
            if self._ended:
                return b""
            await self._wait()
        pieces = self._take()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body; raises Broken when it breaks off, TooLarge when it is larger than the limit."""
        pieces, size = [], 0
        while piece := await self.read():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise TooLarge(f"the answer is larger than {limit_bytes} bytes")
        return b"".join(pieces)

    def finish(self) -> bool:
        """The answer was read: whether the connection can take another request. It is closed otherwise."""
        keeps = self._ended and self._problem is None and self._transport is not None and self._keeps_alive
        if not keeps:
            self.abort()
        self._busy = False
        self._take()  # A client that left has not read all that was there.
        self.idle_since = self._loop.time()
        return keeps

    def abort(self, problem: Exception | None = None) -> None:
        """End it at once, so that the engine stops working; who waits gets the problem."""
        if self._problem is None:
            self._problem = problem or Broken("closed")
        self._stop_watching()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]
        found = transport.get_extra_info("socket")
        if found is not None:
            watch_liveness(found)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._stop_watching()
        self._keeps_alive = False
        if self._headed and not self._framed and exc is None and self._problem is None:
            self._ended = True  # Neither length nor chunks: it ends with the connection (RFC 9112, 6.3).
        elif self._problem is None and not self._ended:
            self._problem = Broken("the connection was closed")
        self._wake()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._busy or self._ended:
            self.abort(Broken("bytes that nobody asked for"))  # They would be taken for the next answer.
            return
        self._last_heard = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as problem:
            self.abort(Broken(f"no HTTP: {problem}"))
        if not self._headed:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.abort(Broken(f"the answer's head is larger than {HEAD_BYTES} bytes"))
        self._wake()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._ended:
            raise Broken("a second answer to one request")  # It would be taken for the next one's.

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; of two with one name the last counts. Trailers are none: the head has been read by then."""
        if self._headed:
            return
        self.headers[name.lower().decode("latin-1")] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """All headers are here."""
        self.status = self._parser.get_status_code()
        self._keeps_alive = self._parser.should_keep_alive()
        self._framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        self._headed = self.status >= INFORMATIONAL

    def on_body(self, piece: bytes) -> None:
        """Part of the body, without chunks' framing."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > BUFFER_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer's end."""
        if self._headed:
            self._ended = True
        else:
            self.headers = {}

    def _take(self) -> list[bytes]:
        """What has come and was not read yet; more is taken from the engine again."""
        pieces, self._pieces = self._pieces, []
        if self._size > BUFFER_BYTES and self._transport is not None:
            self._transport.resume_reading()
        self._size = 0
        return pieces

    def _stop_watching(self) -> None:
        """Also where it has ended early: the event loop would keep all of it until the engine may be silent no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        self._timer = None
        if not self._busy:
            return
        due = min(self._last_heard + self._silence_seconds, self._deadline)
        if self._loop.time() >= due:
            self.abort(TooSlow())
        else:
            self._timer = self._loop.call_at(due, self._watch)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and (self._headed or self._problem is not None):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        if self._problem is not None:
            raise self._problem
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
