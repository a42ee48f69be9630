"""Requests that wait: for a slot, and for engines that are not there yet."""

import asyncio
from dataclasses import replace

import pytest

from slm_operator.gateway.limits import Limits
from tests.support.gateway import CHAT, chat, open_gateway, until
from tests.support.stub_engine import StubEngine


async def test_a_request_at_zero_asks_for_an_engine_and_is_answered_when_it_comes() -> None:
    engine = StubEngine()
    async with open_gateway() as door:
        waiting = [asyncio.create_task(door.post(chat(text=str(number)))) for number in range(3)]
        await until(lambda: len(door.wanted) == 3)
        assert door.wanted == [("default/qwen", 0, 1), ("default/qwen", 0, 2), ("default/qwen", 0, 3)]
        await engine.start()
        door.put(engine)
        assert [(await task)[0] for task in waiting] == [200, 200, 200]
        await engine.stop()


async def test_a_stream_at_zero_gets_comments_and_then_its_answer() -> None:
    engine = StubEngine()
    async with open_gateway(limits=Limits(keep_alive_seconds=0.02)) as door:
        async with door.session.post(door.url + CHAT, json=chat(stream=True)) as answer:
            assert await answer.content.readuntil(b"\n\n") == b": waiting for an engine\n\n"
            assert await answer.content.readuntil(b"\n\n") == b": waiting for an engine\n\n"
            await engine.start()
            door.put(engine)
            received = await answer.content.read()
        await engine.stop()
    assert received.replace(b": waiting for an engine\n\n", b"").startswith(b"data: ")
    assert received.endswith(b"data: [DONE]\n\n")


async def test_comments_also_bridge_an_engine_that_reads_a_long_prompt() -> None:
    engine = StubEngine(pause_seconds=0.1, tokens=2)
    async with (
        open_gateway(engine, limits=Limits(keep_alive_seconds=0.02)) as door,
        door.session.post(door.url + CHAT, json=chat(stream=True)) as answer,
    ):
        received = await answer.content.read()
    assert received.startswith(b": waiting")
    before, _, after = received.partition(b"data: ")
    assert before.count(b":") >= 2
    assert b": waiting" not in after, "no comment stands within the answer"


async def test_waiting_has_an_end_and_says_when_to_try_again() -> None:
    async with open_gateway(limits=Limits(hold_seconds=0.1, retry_after_seconds=7)) as door:
        status, headers, answer = await door.post(chat())
    assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "7", "engine_not_ready")
    assert answer["error"]["message"] == (
        "No engine of default/qwen could take the request within 0.1 seconds: try again later."
    )


async def test_where_no_engine_will_come_who_waits_and_who_comes_is_told_why_at_once() -> None:
    engine = StubEngine()
    async with open_gateway() as door:
        waiting = asyncio.create_task(door.post(chat()))
        await until(lambda: len(door.wanted) == 1)
        door.directory.put(replace(door.service, no_engine="it is stopped"))
        for status, _, answer in (await waiting, await door.post(chat())):
            assert (status, answer["error"]["code"]) == (503, "not_served")
            assert answer["error"]["message"] == "default/qwen has no engine and will get none: it is stopped."
        assert len(door.wanted) == 1, "nobody is asked for an engine that cannot come"
        early = asyncio.create_task(door.post(chat()))
        await asyncio.sleep(0.1)  # Of the change that this client has made the gateway hears only now.
        door.directory.put(door.service)
        await until(lambda: len(door.wanted) == 2)
        await engine.start()
        door.directory.put(replace(door.service, endpoints=(engine.endpoint,), no_engine="it is stopped"))
        assert [(await each)[0] for each in (early, asyncio.create_task(door.post(chat())))] == [200, 200]
        await engine.stop()


async def test_a_stream_that_has_had_comments_is_told_of_the_end_by_an_event() -> None:
    async with (
        open_gateway(limits=Limits(hold_seconds=0.1, keep_alive_seconds=0.02)) as door,
        door.session.post(door.url + CHAT, json=chat(stream=True)) as answer,
    ):
        assert answer.status == 200
        received = await answer.content.read()
    assert b"event: error\n" in received
    assert b'"engine_not_ready"' in received


async def test_an_engine_that_never_gets_ready_is_asked_until_the_time_is_over() -> None:
    engine = StubEngine(loading=True)
    async with open_gateway(engine, limits=Limits(hold_seconds=0.3, cooling_seconds=0.05)) as door:
        status, _, answer = await door.post(chat())
    assert (status, answer["error"]["code"]) == (503, "engine_not_ready")
    assert 2 <= len(engine.seen) <= 8


async def test_an_engine_that_gets_ready_answers_what_it_had_refused() -> None:
    engine = StubEngine(loading=True)
    async with open_gateway(engine) as door:
        waiting = [asyncio.create_task(door.post(chat(text=str(number)))) for number in range(8)]
        await until(lambda: len(engine.seen) >= 2)
        engine.loading = False
        assert {(await task)[0] for task in waiting} == {200}


async def test_no_engine_gets_more_than_its_slots_and_the_queue_is_bounded() -> None:
    engine = StubEngine(pause_seconds=0.3, slots=2)
    async with open_gateway(engine, limits=Limits(queue_length=3)) as door:
        tasks = [asyncio.create_task(door.post(chat(text=str(number)))) for number in range(7)]
        answers = [await task for task in tasks]
    assert engine.most_working == 2
    assert sorted(answer[0] for answer in answers) == [200] * 5 + [429] * 2
    refused = next(answer for answer in answers if answer[0] == 429)
    assert (refused[1]["Retry-After"], refused[2]["error"]["code"]) == ("5", "queue_full")


async def test_bodies_that_wait_are_bounded_together() -> None:
    async with open_gateway(limits=Limits(queue_bytes=1000, hold_seconds=0.2)) as door:
        first = asyncio.create_task(door.post(chat(text="x" * 800)))
        await until(lambda: bool(door.wanted))
        assert (await door.post(chat(text="x" * 800)))[0] == 429
        assert (await first)[0] == 503
        assert (await door.post(chat(text="x" * 800)))[0] == 503, "what has left counts no longer"


async def test_a_waiting_client_that_leaves_takes_nobodys_turn() -> None:
    engine = StubEngine()
    async with open_gateway() as door:
        leaving = asyncio.create_task(door.post(chat()))
        await until(lambda: len(door.wanted) == 1)
        staying = asyncio.create_task(door.post(chat()))
        await until(lambda: len(door.wanted) == 2)
        leaving.cancel()
        await until(lambda: door.gateway.admissions.loads()["default/qwen"][:2] == (0, 1))
        await engine.start()
        door.put(engine)
        assert (await staying)[0] == 200
        assert door.gateway.admissions.loads()["default/qwen"][:2] == (0, 0)
        await engine.stop()
    assert len(engine.seen) == 1


async def test_a_service_that_goes_away_answers_those_that_wait_for_it() -> None:
    async with open_gateway() as door:
        waiting = asyncio.create_task(door.post(chat()))
        await until(lambda: bool(door.wanted))
        door.directory.replace([])
        status, _, answer = await waiting
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_a_conversation_stays_with_its_engine_and_a_burst_spreads() -> None:
    engines = [StubEngine(f"e{number}", pause_seconds=0.01, slots=8) for number in range(3)]
    async with open_gateway(*engines) as door:
        for _ in range(5):
            await door.post(chat(text="the same question"))
        assert sorted(len(engine.seen) for engine in engines) == [0, 0, 5]
        await asyncio.gather(*(door.post(chat(text="the same question")) for _ in range(12)))
    assert max(engine.most_working for engine in engines) <= 6, "a bounded share: 1.25 times the mean, rounded up"


@pytest.mark.parametrize("crash_before", [0, None])
async def test_no_request_is_lost_while_engines_come_and_go(crash_before: int | None) -> None:
    engines = [StubEngine(f"e{number}", pause_seconds=0.003) for number in range(3)]
    async with open_gateway(*engines) as door:
        statuses: list[int] = []

        async def ask(worker: int) -> None:
            statuses.extend([(await door.post(chat(text=f"{worker} {number}")))[0] for number in range(15)])

        workers = [asyncio.create_task(ask(worker)) for worker in range(8)]
        for engine in engines:
            await asyncio.sleep(0.03)
            others = [each for each in engines if each is not engine]
            engine.crash_before = crash_before
            door.put(*others)
            if crash_before is None:
                await until(lambda gone=engine: gone.working == 0)  # type: ignore[misc]
            await engine.stop()
            engine.crash_before = None
            await engine.start()
            door.put(*engines)
        await asyncio.gather(*workers)
    assert statuses == [200] * 120


async def test_a_request_whose_engine_breaks_as_its_service_is_replaced_goes_to_the_new_one() -> None:
    old, new = StubEngine("old", pause_seconds=1.0), StubEngine("new")
    async with open_gateway(old) as door:
        asking = asyncio.create_task(door.post(chat()))
        await until(lambda: old.working == 1)
        door.directory.replace([])
        await new.start()
        door.put(new)
        await old.stop()
        assert (await asking)[2]["by"] == "new"
        await new.stop()
