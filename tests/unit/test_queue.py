"""The work queue keeps its three promises: collapse, one worker per key, back-off."""

import asyncio

from slm_operator.ports import ObjectKey
from slm_operator.reconcile.queue import MAX_DELAY_SECONDS, KeyedQueue

ONE = ObjectKey("SLMModel", "default", "one")
TWO = ObjectKey("SLMModel", "default", "two")


async def test_repeats_collapse_into_one_piece_of_work() -> None:
    queue = KeyedQueue()
    for _ in range(5):
        queue.add(ONE)
    queue.add(TWO)
    assert [await queue.take(), await queue.take()] == [ONE, TWO]
    queue.done(ONE)
    queue.done(TWO)
    assert len(queue) == 0


async def test_a_key_that_changes_while_it_is_worked_on_comes_once_more_and_not_at_the_same_time() -> None:
    queue = KeyedQueue()
    queue.add(ONE)
    assert await queue.take() == ONE
    queue.add(ONE)
    queue.add(ONE)
    second = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not second.done()
    queue.done(ONE)
    assert await second == ONE
    queue.done(ONE)
    assert len(queue) == 0


async def test_failures_back_off_per_key_and_success_forgets_them() -> None:
    queue = KeyedQueue()
    delays = []
    for _ in range(12):
        queue.add(ONE)
        await queue.take()
        delays.append(queue.failed(ONE))
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == MAX_DELAY_SECONDS
    queue.add(ONE)
    await queue.take()
    queue.done(ONE)
    queue.add(ONE)
    await queue.take()
    assert queue.failed(ONE) == 0.2


async def test_a_delayed_key_arrives_and_the_earlier_of_two_timers_wins() -> None:
    queue = KeyedQueue()
    queue.add_after(ONE, 3600)
    queue.add_after(ONE, 0.01)
    async with asyncio.timeout(5):
        assert await queue.take() == ONE
