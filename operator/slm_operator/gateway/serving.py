"""A gateway as a process: its event loop, its signals, what works beside its answers, and the end of its work."""

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from slm_operator.gateway.listening import Listener

OBJECTS_BEFORE_COLLECTION = 50_000
"""Python looks for cycles after so many more objects than went: each look stops every stream for milliseconds."""
RESTART_SECONDS = 2.0
"""Before a part that failed begins anew."""
LOG = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end on an event loop that is made for many sockets, with as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


class Stop:
    """Tells when SIGTERM or SIGINT has come."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def take_signals(self) -> None:
        """From now on they come here; to be called again where somebody else has taken them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._told.set)

    async def wait(self) -> None:
        """Return once one has come."""
        await self._told.wait()


class Parts:
    """What works beside the answers, and begins anew when it fails: a fault there must not cut off answers."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []
        self.failures = 0

    def keep(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run it from now on."""
        self._tasks.append(self._group.create_task(self._keep(run)))

    def end(self) -> None:
        """Run none any longer."""
        for task in self._tasks:
            task.cancel()

    async def _keep(self, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except Exception:
                LOG.exception("a part of the gateway failed, and begins anew")
                self.failures += 1
            await asyncio.sleep(RESTART_SECONDS)


async def serve_until_told(
    listener: Listener, drain_seconds: float, stop: Stop, released: Callable[[], None] = lambda: None
) -> None:
    """Serve until told to end, then let answers under way end.

    ``released`` is called once nothing listens any more, so that another gateway can take the port meanwhile.
    """
    stop.take_signals()
    gc.collect()
    gc.freeze()  # Modules stay: they need not be looked at again.
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    await stop.wait()
    listener.stop_listening()
    released()
    await listener.close(drain_seconds)
