"""How the gateway's reports reach the daemon: lines of JSON over loopback, from whoever may read the daemon's lock."""

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets

from slm_operator.adapters.pod_status import LOCAL_ADDRESS
from slm_operator.gateway.admission import Admissions
from slm_operator.gateway.reporting import LONGEST_LINE, Report, Reporter, dump_report, parse_report
from slm_operator.local.lifecycle import find_demand_address
from slm_operator.local.paths import LocalPaths
from slm_operator.reconcile.autoscaler import Autoscaler

RETRY_SECONDS = 0.2
"""Wait before a daemon that was not there is looked for again."""
log = logging.getLogger(__name__)


class DemandServer:
    """The daemon's end."""

    def __init__(self, autoscaler: Autoscaler) -> None:
        self._autoscaler = autoscaler
        self._server: asyncio.Server | None = None
        self.token = secrets.token_hex(16)
        """What whoever reports must know: other users of this machine must not start engines."""

    async def listen(self) -> int:
        """The port."""
        self._server = await asyncio.start_server(self._serve, LOCAL_ADDRESS, 0, limit=LONGEST_LINE)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hearing = None
        try:
            greeting = json.loads(await reader.readline())
            if not hmac.compare_digest(str(greeting["token"]), self.token):
                return
            hearing = self._autoscaler.hear(str(greeting["gateway"]))
            while (line := await reader.readline()) and hearing.report(parse_report(line)):
                pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("a gateway's report cannot be used", extra={"error": str(error)})
        finally:
            if hearing is not None:
                hearing.end()
            writer.close()


async def report_forever(paths: LocalPaths, reporter: Reporter, admissions: Admissions) -> None:
    """The gateway's end: report to whichever daemon there is, until cancelled."""
    while True:
        address = find_demand_address(paths)
        if address is not None:
            with contextlib.suppress(OSError):
                await _report_to(*address, reporter, admissions)
        await asyncio.sleep(RETRY_SECONDS)


async def _report_to(port: int, token: str, reporter: Reporter, admissions: Admissions) -> None:
    """Report to one daemon; raises OSError once it has ended."""
    _, writer = await asyncio.open_connection(LOCAL_ADDRESS, port)

    def write(line: bytes) -> None:
        if writer.is_closing():
            raise ConnectionResetError("the daemon has ended")  # uvloop would raise a RuntimeError.
        writer.write(line)

    async def send(report: Report) -> None:
        write(dump_report(report))
        await writer.drain()

    try:
        write(json.dumps({"gateway": f"gateway-{os.getpid()}", "token": token}).encode() + b"\n")
        await reporter.run(admissions, send)
    finally:
        writer.close()
