"""A gateway as a process: its event loop, its signals, and the end of its work."""

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from slm_operator.gateway.listening import Listener

OBJECTS_BEFORE_COLLECTION = 50_000
"""Python looks for cycles after so many more objects than went: each look stops every stream for milliseconds."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end on an event loop that is made for many sockets."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def serve_until_told(
    listener: Listener, drain_seconds: float, released: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGTERM or SIGINT, then let answers under way end.

    ``released`` is called once nothing listens any more, so that another gateway can take the port meanwhile.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    gc.collect()
    gc.freeze()  # Modules stay: they need not be looked at again.
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    await told.wait()
    listener.stop_listening()
    released()
    await listener.close(drain_seconds)
