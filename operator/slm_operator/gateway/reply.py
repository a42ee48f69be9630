"""The client's side of an answer: whole, or as a stream that says something while it waits."""

import asyncio
import contextlib
from collections.abc import Mapping

from aiohttp import web

from slm_operator.gateway.headers import SERVER, headers_to_client
from slm_operator.gateway.refusal import Refusal

EVENT_STREAM = "text/event-stream"
COMMENT = b": waiting for an engine\n\n"
"""A line that begins with a colon is a comment, which clients leave out (HTML standard, 9.2.6)."""


def whole(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    """An answer in one piece."""
    return web.Response(status=status, body=body, headers=headers)


def refused(refusal: Refusal, request_id: str, *, anthropic: bool = False) -> web.Response:
    """An error in one piece."""
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id, "Server": SERVER, **refusal.headers}
    return whole(refusal.status, refusal.body(anthropic=anthropic), headers)


class Stream:
    """An answer in pieces. Until the first one comes, comments keep the connection alive."""

    def __init__(self, request: web.BaseRequest, request_id: str, keep_alive_seconds: float) -> None:
        self._request = request
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

    async def write(self, piece: bytes) -> None:
        """Pass a piece on; waits while the client does not read."""
        assert self._response is not None  # noqa: S101 (for the type checker)
        self.passed = True
        await self._response.write(piece)

    async def end(self) -> web.StreamResponse:
        """All has been passed on."""
        assert self._response is not None  # noqa: S101 (for the type checker)
        await self._response.write_eof()
        return self._response

    async def fail(self, refusal: Refusal, *, anthropic: bool = False) -> web.StreamResponse:
        """Tell of an error by an event.

        After part of an answer the connection breaks too, so that nobody takes it for the whole.
        """
        assert self._response is not None  # noqa: S101 (for the type checker)
        with contextlib.suppress(ConnectionError):
            await self._response.write(b"event: error\ndata: " + refusal.body(anthropic=anthropic) + b"\n\n")
            if not self.passed:
                return await self.end()
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
                await self._prepare({"content-type": EVENT_STREAM, "cache-control": "no-cache"})
            while self._response is not None:
                await self._response.write(COMMENT)
                await asyncio.sleep(self._seconds)

    async def _prepare(self, headers: Mapping[str, str]) -> None:
        self._response = web.StreamResponse(headers=headers_to_client(headers, self._request_id))
        await self._response.prepare(self._request)
