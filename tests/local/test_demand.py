"""How the local gateway's reports reach a daemon, and the next one after that was killed."""

import asyncio
import json
import socket
import struct
from pathlib import Path

import uvloop

from slm_operator.gateway.admission import Admissions
from slm_operator.gateway.directory import MemoryDirectory
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.reporting import Reporter
from slm_operator.local import locks
from slm_operator.local.demand import report_forever
from slm_operator.local.lifecycle import READY
from slm_operator.local.paths import LocalPaths

PATIENCE_SECONDS = 20
AT_ONCE = struct.pack("ii", 1, 0)
"""Linger for no time: the connection is reset, as the kernel does where a killed process had left something unread."""


async def report_to_two_daemons(paths: LocalPaths) -> list[str]:
    """The gateways that greeted: the first daemon is killed after that, with reports unread."""
    greeted: list[str] = []
    again = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted.append(json.loads(await reader.readline())["token"])
        if len(greeted) == 1:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            writer.transport.abort()
        else:
            again.set()

    daemon = await asyncio.start_server(hear, "127.0.0.1", 0)
    reporter = Reporter()
    admissions = Admissions(MemoryDirectory(), Limits(), demand=reporter.wanted, gone=lambda _: None)
    with locks.hold(paths.lock, 0) as write:
        write(1, READY, daemon.sockets[0].getsockname()[1], "token")
        reports = asyncio.create_task(report_forever(paths, reporter, admissions))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait([reports, asyncio.create_task(again.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not reports.done(), reports.exception()
        reports.cancel()
    daemon.close()
    return greeted


def test_after_a_daemon_that_was_killed_with_reports_unread_the_next_one_hears_them(tmp_path: Path) -> None:
    paths = LocalPaths(tmp_path / "state", tmp_path / "data", tmp_path)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # What gateways run on.
        assert runner.run(report_to_two_daemons(paths)) == ["token", "token"]
