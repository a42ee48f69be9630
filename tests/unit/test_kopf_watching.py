"""kopf as informer: events reach the cache in the loop's own thread, and whatever ends the watches begins them anew."""

import asyncio
import inspect
from typing import Any

import kopf
import pytest

from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.handlers import watching


def test_the_cache_is_only_touched_in_the_loops_own_thread() -> None:
    """kopf runs plain functions in threads; there, a wake-up of whoever waits for a change can be lost for good."""
    registry = watching.build_registry(ObjectCache(), lambda: None)
    handlers = registry._watching.get_all_handlers()
    assert {inspect.iscoroutinefunction(handler.fn) for handler in handlers} == {True}


def test_kopfs_end_does_not_kill_the_process_later() -> None:
    assert watching.build_settings({}).process.ultimate_exiting_timeout is None


async def test_watches_that_ended_begin_anew(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watching, "RESTART_SECONDS", 0.01)
    signals: list[int] = []
    ends: list[Exception | None] = [ConnectionError("cut off"), RuntimeError("a bug"), None]

    async def end(error: Exception | None) -> None:
        if error is not None:
            raise error

    async def spawn(**_: Any) -> list[asyncio.Task[None]]:
        forever = asyncio.create_task(asyncio.sleep(3600))
        return [forever, asyncio.create_task(end(ends.pop(0)))] if ends else [forever]

    monkeypatch.setattr(kopf, "spawn_tasks", spawn)
    watch = watching.watch(ObjectCache(), [], {}, lambda: None, lambda: signals.append(1))
    running = asyncio.create_task(watch)
    async with asyncio.timeout(5):
        while len(signals) < 4:
            await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert {record.message for record in caplog.records} == {"the watches ended, and begin anew"}
    told = [(record.__dict__["error"], bool(record.exc_info)) for record in caplog.records]
    assert told == [("cut off", False), ("a bug", True)], "only a bug needs a traceback"
