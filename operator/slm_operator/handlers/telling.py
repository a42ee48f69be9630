"""How a gateway's reports of demand reach every replica of the operator."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import AddrInfoType

from slm_operator.gateway.admission import Admissions
from slm_operator.gateway.connection import watch_liveness
from slm_operator.gateway.reporting import Report, Reporter, dump_report
from slm_operator.handlers.demand import NAME_HEADER

LOOK_SECONDS = 2.0
"""Between looks at the operator's name: a new replica hears of demand so late, and what name servers remember."""
RETRY_SECONDS = 0.5
"""Wait before a replica that did not listen is tried again."""
REFUSED_SECONDS = 5.0
CONNECT_SECONDS = 2.0
END_SECONDS = 1.0
"""Longest wait for a replica to hear that this gateway ends."""

log = logging.getLogger(__name__)


def _open_socket(info: AddrInfoType) -> socket.socket:
    """One that finds out when the replica's node has gone without a word."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    watch_liveness(made)
    return made


class Teller:
    """Keeps a request open to each address behind the operator's name."""

    def __init__(self, url: str, token: Path, name: str, reporter: Reporter, admissions: Admissions) -> None:
        self._url = url
        self._token = token
        self._name = name
        self._reporter = reporter
        self._admissions = admissions

    async def run(self) -> None:
        """Report until cancelled, which ends every request properly: the operator knows that this was all."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        connector = aiohttp.TCPConnector(socket_factory=_open_socket)
        session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        async with session, asyncio.TaskGroup() as group:
            telling: dict[str, asyncio.Task[None]] = {}
            addresses: set[str] = set()
            while True:
                addresses = await self._find_addresses(addresses)
                for address in telling.keys() - addresses:
                    telling.pop(address).cancel()
                for address in addresses - telling.keys():
                    telling[address] = group.create_task(self._tell_forever(session, address))
                await asyncio.sleep(LOOK_SECONDS)

    async def _find_addresses(self, known: set[str]) -> set[str]:
        """URLs of all replicas, by the addresses that their common name has; as known while nobody answers for it."""
        parts = urlsplit(self._url)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, parts.port or 80, type=socket.SOCK_STREAM
            )
        except OSError as error:
            log.warning("the operator's name cannot be found", extra={"url": self._url, "error": str(error)})
            return known
        hosts = {f"[{each[4][0]}]" if each[0] == socket.AF_INET6 else each[4][0] for each in found}
        return {parts._replace(netloc=f"{host}:{parts.port or 80}").geturl() for host in hosts}

    async def _tell_forever(self, session: aiohttp.ClientSession, url: str) -> None:
        told = ""
        while True:
            wait = RETRY_SECONDS
            try:
                problem = await self._tell(session, url)
                wait = REFUSED_SECONDS
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                problem = str(error) or type(error).__name__
            if problem != told:
                log.warning("the operator hears nothing of demand", extra={"url": url, "error": problem})
                told = problem
            await asyncio.sleep(wait)

    async def _tell(self, session: aiohttp.ClientSession, url: str) -> str:
        """Report until the replica answers, which it does only to refuse; what it says."""
        headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", NAME_HEADER: self._name}
        lines: asyncio.Queue[bytes] = asyncio.Queue(1)

        async def put(report: Report) -> None:
            await lines.put(dump_report(report))

        async def body() -> AsyncIterator[bytes]:
            while line := await lines.get():
                yield line

        async def post() -> str:
            async with session.post(url, data=body(), headers=headers) as answer:
                return f"{answer.status}: {(await answer.text()).strip()}"

        reporting, posting = asyncio.create_task(self._reporter.run(self._admissions, put)), asyncio.create_task(post())
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            # A request that ends as it should says that there is nothing more to come; one that breaks off does not.
            reporting.cancel()
            with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(END_SECONDS):
                    await lines.put(b"")
                    await posting
            raise
        finally:
            reporting.cancel()
            posting.cancel()
