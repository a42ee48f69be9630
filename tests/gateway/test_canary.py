"""A part of the requests goes to engines that are tried; what comes of them is counted, and told."""

import asyncio
from dataclasses import replace

import pytest

from slm_operator.core.answers import Answers
from slm_operator.gateway import reporting
from slm_operator.gateway.directory import Canary, Endpoint
from slm_operator.gateway.reporting import Report, Reporter, dump_report, parse_report
from slm_operator.ports import ObjectKey
from tests.support.gateway import CHAT, Door, chat, open_gateway, until
from tests.support.stub_engine import StubEngine

KEY = "default/qwen"
STEP = Canary("step", 20)


class TriedEngine(StubEngine):
    @property
    def endpoint(self) -> Endpoint:
        return replace(super().endpoint, canary=True)


def answers(door: Door) -> Answers:
    return door.gateway.admissions.answers()[KEY]


async def ask(door: Door, count: int, *, stream: bool = False) -> list[str]:
    """Who answered so many requests."""
    by = []
    for number in range(count):
        if stream:
            async with door.session.post(door.url + CHAT, json=chat(text=str(number), stream=True)) as answer:
                by.append((await answer.text()).partition('"of ')[2].partition('"')[0])
        else:
            by.append((await door.post(chat(text=str(number))))[2]["by"])
    return by


async def test_the_canary_gets_its_share_and_both_tracks_are_counted() -> None:
    stable, tried = StubEngine("stable"), TriedEngine("tried")
    async with open_gateway(stable, tried, canary=STEP) as door:
        by = await ask(door, 200)
        assert 39 <= by.count("tried") <= 48
        await until(lambda: answers(door).stable.requests + answers(door).canary.requests == 200)
        assert answers(door).canary.requests == by.count("tried")
        assert answers(door).canary.errors == 0
        assert answers(door).canary.unstreamed.count == by.count("tried")


async def test_streams_tell_the_time_to_their_first_token() -> None:
    stable, tried = StubEngine("stable"), TriedEngine("tried", pause_seconds=0.02)
    async with open_gateway(stable, tried, canary=Canary("step", 50)) as door:
        assert set(await ask(door, 20, stream=True)) == {"stable", "tried"}
        await until(lambda: answers(door).stable.requests + answers(door).canary.requests == 20)
        found = answers(door)
    assert found.canary.first_token.mean_seconds >= 0.02
    assert found.canary.first_token.mean_seconds > found.stable.first_token.mean_seconds
    assert found.canary.per_token.mean_seconds > found.stable.per_token.mean_seconds


async def test_without_a_ready_canary_all_go_to_the_others_and_the_other_way_round() -> None:
    stable, tried = StubEngine("stable"), TriedEngine("tried")
    async with open_gateway(stable, tried, canary=STEP) as door:
        door.put(stable)
        assert set(await ask(door, 20)) == {"stable"}
        door.put(tried)
        assert set(await ask(door, 20)) == {"tried"}
        door.put(stable, tried, canary=None)
        assert set(await ask(door, 20)) == {"stable"}


@pytest.mark.parametrize("crash_before", [0, 1])
async def test_a_canary_that_crashes_fails_no_request_and_is_counted(crash_before: int) -> None:
    stable, tried = StubEngine("stable"), TriedEngine("tried", crash_before=crash_before)
    async with open_gateway(stable, tried, canary=Canary("step", 50)) as door:
        for number in range(20):
            document = chat(text=str(number), stream=crash_before > 0)
            async with door.session.post(door.url + CHAT, json=document) as answer:
                assert answer.status == 200
                text = await answer.text()
                assert "error" not in text
                assert "t2" in text
        await until(lambda: answers(door).stable.requests == 20)
        assert answers(door).canary.errors == answers(door).canary.requests > 0
        assert answers(door).stable.errors == 0


async def test_a_canary_whose_slots_are_taken_leaves_its_requests_to_the_others() -> None:
    stable, tried = StubEngine("stable", slots=1), TriedEngine("tried", before_answer_seconds=0.3, slots=1)
    async with open_gateway(stable, tried, canary=Canary("step", 50)) as door:
        waiting = [asyncio.create_task(door.post(chat(text=str(number)))) for number in range(12)]
        by = [(await each)[2]["by"] for each in waiting]
    assert 1 <= by.count("tried") <= 2
    assert tried.most_working == 1


async def test_a_step_is_told_to_whoever_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PERIOD_SECONDS", 0.01)
    told: list[Report] = []

    async def send(report: Report) -> None:
        told.append(report)

    def last() -> Answers | None:
        loads = [parse_report(dump_report(each)).get(ObjectKey("InferenceService", "default", "qwen")) for each in told]
        return next((each.answers for each in reversed(loads) if each is not None and each.answers is not None), None)

    stable, tried = StubEngine("stable"), TriedEngine("tried")
    async with open_gateway(stable, tried, canary=STEP) as door:
        await ask(door, 10)
        reporting_task = asyncio.create_task(Reporter().run(door.gateway.admissions, send))
        await until(lambda: last() == answers(door))  # Whoever hears for the first time hears of all of the step.
        await ask(door, 30)
        await until(lambda: answers(door).stable.requests + answers(door).canary.requests == 40)
        await until(lambda: last() == answers(door))
        count = len(told)
        await until(lambda: len(told) > count + 3)
        assert all(not each for each in told[count + 2 :]), "what is told once is not told again"
        door.put(stable, tried, canary=Canary("next", 50))
        await ask(door, 4)
        await until(lambda: (found := last()) is not None and found.step == "next")
        reporting_task.cancel()
