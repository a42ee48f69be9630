"""Waits for the answers that an engine gives over connections of its own clients, as the gateway's are."""

import asyncio
import contextlib
import time

import psutil

POLL_SECONDS = 0.1
QUIET_SECONDS = 0.3
"""So long nobody must be connected: clients that follow the objects know by then that the engine takes nobody any more
(the local database is looked at every 0.1 s)."""


async def wait_until_quiet(pid: int, port: int, limit_seconds: float) -> None:
    """Return once nobody is connected to a process's port, at the latest after the limit."""
    deadline = time.monotonic() + limit_seconds
    quiet_since = time.monotonic()
    while (now := time.monotonic()) < deadline:
        if _is_connected(pid, port):
            quiet_since = now
        elif now - quiet_since >= QUIET_SECONDS:
            return
        await asyncio.sleep(POLL_SECONDS)


def _is_connected(pid: int, port: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        leader = psutil.Process(pid)  # The engine itself is its child.
        return any(_has_connection(process, port) for process in (*leader.children(recursive=True), leader))
    return False


def _has_connection(process: psutil.Process, port: int) -> bool:
    connections = process.net_connections("tcp")
    return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in connections)
