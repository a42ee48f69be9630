"""Reading a request's body, within bounds of size and time."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import HttpVersion11, web

from slm_operator.gateway.limits import Limits
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal, bad_request, overloaded, too_large


class Bodies:
    """Reads bodies, and knows how much memory those of all requests under way take."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0

    async def read(self, request: web.BaseRequest, record: Record) -> bytes:
        """The whole body, which is held until ``release``; raises Refusal."""

        def hold(size: int) -> None:
            if self._bytes + size > self._limits.bodies_bytes:
                raise overloaded(self._limits)
            self._bytes += size
            record.body_bytes += size

        return await read_body(request, self._limits, hold)

    def release(self, record: Record) -> None:
        """The request has ended."""
        self._bytes -= record.body_bytes


async def read_body(request: web.BaseRequest, limits: Limits, hold: Callable[[int], None]) -> bytes:
    """The whole body; raises Refusal when it is too large, too slow, or encoded in a way that hides its size.

    ``hold`` is told of each piece's size.
    """
    _check_headers(request, limits)
    content = request.content
    if content.is_eof():  # It came with the headers, as small ones do.
        body: bytes = content.read_nowait()
        hold(len(body))
        return body
    await _continue(request)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while piece := await content.readany():
                pieces.append(piece)
                size += len(piece)
                if size > limits.body_bytes:
                    raise too_large(limits.body_bytes)
                hold(len(piece))
    except TimeoutError:
        message = f"The body did not arrive within {limits.body_seconds:g} seconds."
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "body_timeout", message) from None
    except web.RequestPayloadError as problem:
        raise bad_request("The body ended early or is framed wrongly.") from problem
    return b"".join(pieces)


def _check_headers(request: web.BaseRequest, limits: Limits) -> None:
    headers = request.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        message = "Compressed bodies are not taken: send the JSON as it is, without Content-Encoding."
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
    if headers.get("Expect", "100-continue").lower() != "100-continue":
        raise Refusal(HTTPStatus.EXPECTATION_FAILED, "unknown_expectation", "Expect may only be 100-continue.")
    if (request.content_length or 0) > limits.body_bytes:
        raise too_large(limits.body_bytes)


async def _continue(request: web.BaseRequest) -> None:
    """Ask for the body where the client waits for that; HTTP/1.0 knows no such answer (RFC 9110, 10.1.1)."""
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp takes bytes written before the headers for an answer that has begun.
        request.writer.output_size = 0
