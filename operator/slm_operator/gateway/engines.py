"""Connections to engines, and what can go wrong on them."""

import logging
from collections.abc import Mapping
from functools import lru_cache

import aiohttp
from yarl import URL

from slm_operator.gateway.directory import Endpoint
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.refusal import engine_failed, engine_silent

LOG = logging.getLogger(__name__)
UNAVAILABLE = 503
READ_BYTES = 64 * 2**10
POOLED_SECONDS = 4.0
"""Idle connections are closed before engines close them, which both do after 5 s: llama-server by cpp-httplib's
CPPHTTPLIB_KEEPALIVE_TIMEOUT_SECOND, vLLM by VLLM_HTTP_TIMEOUT_KEEP_ALIVE."""


class NotTaken(Exception):
    """The engine gave no byte of an answer; another may be asked."""

    def __init__(self, *, received: bool) -> None:
        super().__init__()
        self.received = received
        """Whether it may have had the whole request, and perhaps died of it."""


@lru_cache(maxsize=4096)
def _address(endpoint: Endpoint, path: str) -> URL:
    return URL.build(scheme="http", host=endpoint.host, port=endpoint.port, path=path)


class Engines:
    """One pool of connections for all engines. Made within the event loop that uses it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        timeout = aiohttp.ClientTimeout(
            total=limits.total_seconds, sock_connect=limits.connect_seconds, sock_read=limits.silence_seconds
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=POOLED_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(
        self, endpoint: Endpoint, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        """The answer's head; close it when done. Raises NotTaken, or Refusal when nobody else should be asked."""
        try:
            answer = await self._session.post(
                _address(endpoint, path), data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as problem:
            LOG.warning("%s could not be reached: %s", endpoint.id, problem)
            raise NotTaken(received=False) from problem
        except TimeoutError as problem:
            raise engine_silent() from problem
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as problem:
            LOG.warning("%s closed the connection before it answered: %s", endpoint.id, problem)
            raise NotTaken(received=True) from problem
        except aiohttp.ClientError as problem:
            LOG.warning("%s answered no HTTP: %s", endpoint.id, problem)
            raise engine_failed() from problem
        if answer.status == UNAVAILABLE:
            answer.close()
            raise NotTaken(received=False)
        return answer

    async def read(self, answer: aiohttp.ClientResponse) -> bytes:
        """The whole body; raises NotTaken when it breaks off, since nothing of it was passed on."""
        content = answer.content
        try:
            body = await content.readany()
            if content.at_eof():
                return body
            pieces, size = [body], len(body)
            while piece := await content.readany():
                pieces.append(piece)
                size += len(piece)
                if size > self._limits.answer_bytes:
                    LOG.warning("an answer is larger than %d bytes, the most that is read", self._limits.answer_bytes)
                    raise engine_failed()
            return b"".join(pieces)
        except TimeoutError as problem:
            raise engine_silent() from problem
        except aiohttp.ClientError as problem:
            raise NotTaken(received=True) from problem
