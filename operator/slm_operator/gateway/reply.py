"""The client's side of an answer: whole, or as a stream that says something while it waits."""

import asyncio
import contextlib
from collections.abc import Mapping

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.helpers import rfc822_formatted_time

from slm_operator.gateway.dialect import OPENAI, Dialect
from slm_operator.gateway.headers import headers_to_client, own_headers
from slm_operator.gateway.refusal import Refusal

AT_ONCE_BYTES = 32 * 2**10
"""Answers up to this size are written without waiting for the client to read: sockets' buffers hold them."""
CONNECTION = {
    (True, HttpVersion10): "Connection: keep-alive\r\n",
    (False, HttpVersion11): "Connection: close\r\n",
}
"""What is said of the connection, by whether it stays and by version, where that is not its default (RFC 9112, 9.3)."""


class _Piece(web.StreamResponse):
    """An answer that goes out in one write: aiohttp's own takes a fifth of a request's time to say the same."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status=status)
        self._given = headers
        self._whole_body = body

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing goes out before the body, nor within another answer."""
        if request.writer.output_size:
            raise ConnectionError("another answer has begun")
        self._req = request
        self._keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        """Send all of it."""
        request = self._req
        if request is None or request.transport is None:
            raise ConnectionResetError("the client has left")
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._given.items())
        connection = CONNECTION.get((bool(self._keep_alive), request.version), "")
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\n{lines}Content-Length: {len(self._whole_body)}\r\n"
            f"Date: {rfc822_formatted_time()}\r\n{connection}\r\n"
        )
        body = b"" if request.method == "HEAD" else self._whole_body
        request.transport.writelines((head.encode("latin-1", "replace"), body))
        await request.writer.drain()  # Whoever sends request after request and reads nothing would fill the memory.


def whole(status: int, body: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    """An answer in one piece."""
    if len(body) <= AT_ONCE_BYTES:
        return _Piece(status, body, headers)
    return web.Response(status=status, body=body, headers=headers)


def refused(refusal: Refusal, request_id: str, dialect: Dialect = OPENAI) -> web.StreamResponse:
    """An error in one piece."""
    return whole(refusal.status, dialect.error(refusal), own_headers(request_id) | refusal.headers)


class Stream:
    """An answer in pieces. Until the first one comes, comments keep the connection alive."""

    def __init__(
        self, request: web.BaseRequest, request_id: str, keep_alive_seconds: float, dialect: Dialect = OPENAI
    ) -> None:
        self._request = request
        self._dialect = dialect
        self._request_id = request_id
        self._seconds = keep_alive_seconds
        self._response: web.StreamResponse | None = None
        self._comments: asyncio.Task[None] | None = None
        self.passed = False
        """Whether anything of an answer went to the client."""
        # A timer costs less than a task, and few requests wait so long that they need one.
        self._timer = asyncio.get_running_loop().call_later(keep_alive_seconds, self._start_comments)

    @property
    def begun(self) -> bool:
        """Whether the client has a status, so that what comes now must be events."""
        return self._response is not None

    async def begin(self, headers: Mapping[str, str]) -> None:
        """End the comments and send the head, unless a comment has brought one."""
        await self.hush()
        if self._response is None:
            await self._prepare(headers)

    def wait_again(self) -> None:
        """Another engine is waited for, in the middle of the answer."""
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._start_comments)

    async def write(self, piece: bytes) -> None:
        """Pass a piece of the engine's on; waits while the client does not read."""
        assert self._response is not None  # noqa: S101 (for the type checker)
        self.passed = True
        if told := self._dialect.piece(piece):
            await self._response.write(told)

    async def end(self) -> web.StreamResponse:
        """The engine has said all."""
        assert self._response is not None  # noqa: S101 (for the type checker)
        if told := self._dialect.finish():
            await self._response.write(told)
        await self._response.write_eof()
        return self._response

    async def fail(self, refusal: Refusal) -> web.StreamResponse:
        """Tell of an error by an event.

        After part of an answer the connection breaks too, so that nobody takes it for the whole.
        """
        assert self._response is not None  # noqa: S101 (for the type checker)
        with contextlib.suppress(ConnectionError):
            await self._response.write(self._dialect.failure(refusal))
            if not self.passed:
                await self._response.write_eof()
                return self._response
        if self._request.transport is not None:
            self._request.transport.close()
        return self._response

    async def hush(self) -> None:
        """No more comments."""
        self._timer.cancel()
        if self._comments is not None:
            self._comments.cancel()
            await asyncio.wait([self._comments])
            self._comments = None

    def _start_comments(self) -> None:
        self._comments = asyncio.get_running_loop().create_task(self._comment())

    async def _comment(self) -> None:
        with contextlib.suppress(ConnectionError):  # The request's own task is cancelled with the connection.
            if self._response is None:
                await self._prepare(self._dialect.stream_headers)
            while self._response is not None:
                await self._response.write(self._dialect.keep_alive)
                await asyncio.sleep(self._seconds)

    async def _prepare(self, headers: Mapping[str, str]) -> None:
        self._response = web.StreamResponse(headers=headers_to_client(self._dialect.headers(headers), self._request_id))
        await self._response.prepare(self._request)
