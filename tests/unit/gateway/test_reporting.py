"""What a gateway tells whoever scales engines."""

import asyncio
from collections import deque
from dataclasses import astuple

import pytest

from slm_operator.core.answers import Answers, Tally, Times
from slm_operator.gateway import reporting
from slm_operator.gateway.admission import Admissions
from slm_operator.gateway.reporting import Report, Reporter, dump_report, parse_report
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.autoscaler import Load

KEY = "default/qwen"


class Loads(Admissions):
    """What is held at each look, and nothing more in the end."""

    def __init__(self, *looks: dict[str, tuple[int, int, int]]) -> None:
        self._looks = deque(looks)

    def loads(self) -> dict[str, tuple[int, int, int]]:
        return self._looks.popleft()

    def answers(self) -> dict[str, Answers]:
        return {}


async def reports(*looks: dict[str, tuple[int, int, int]]) -> list[Report]:
    told: list[Report] = []

    async def send(report: Report) -> None:
        told.append(report)

    reporter = Reporter()
    with pytest.raises(IndexError):
        await reporter.run(Loads(*looks), send)
    return told


def test_what_a_report_tells_is_what_is_heard_and_anything_else_is_none() -> None:
    times = Times(2, 0.5, 0.25)
    answers = Answers("step", Tally(3), Tally(2, 1, times, times))
    heard = parse_report(dump_report({KEY: (1, 2, 3, astuple(answers))}))
    assert heard == {ObjectKey("InferenceService", "default", "qwen"): Load(1, 2, 3, answers)}
    for rest in (
        "7",
        "[]",
        '["step"]',
        '["step", [1], [1]]',
        '["step", [1, 2, [1, 2, 3], [1]], [1, 2, [], []]]',
        '"x"',
    ):
        with pytest.raises(ValueError, match=r"no report|unpack|literal"):
            parse_report(f'{{"{KEY}": [1, 2, 3, {rest}]}}'.encode())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(reporting, "GAP_SECONDS", 0.0)


async def test_what_differs_is_told_and_else_a_sign_of_life() -> None:
    held = {KEY: (1, 2, 10)}
    assert await reports({}, {}, held, held, {KEY: (0, 0, 12)}) == [{}, {KEY: (1, 2, 10)}, {}, {KEY: (0, 0, 2)}]


async def test_a_service_that_comes_back_is_counted_from_nothing() -> None:
    before, after = {KEY: (1, 0, 500)}, {KEY: (1, 0, 1)}
    assert await reports({}, before, {}, after) == [{KEY: (1, 0, 500)}, {KEY: (0, 0, 0)}, {KEY: (1, 0, 1)}]
    assert await reports({}, before, after) == [{KEY: (1, 0, 500)}, {KEY: (1, 0, 1)}], "between two looks"


async def test_each_of_several_receivers_hears_at_once_when_a_request_must_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "PERIOD_SECONDS", 60.0)
    reporter, told = Reporter(), [asyncio.Queue[Report](), asyncio.Queue[Report]()]
    held: dict[str, tuple[int, int, int]] = {}

    class Held(Loads):
        def loads(self) -> dict[str, tuple[int, int, int]]:
            return held

    running = [asyncio.create_task(reporter.run(Held(), queue.put)) for queue in told]
    async with asyncio.timeout(10):
        assert [await queue.get() for queue in told] == [{}, {}]
        for number in range(1, 4):
            held[KEY] = (0, number, number)
            reporter.wanted(KEY, 0, number)
            assert [await queue.get() for queue in told] == [{KEY: (0, number, 1)}] * 2
    for task in running:
        task.cancel()


def test_a_line_tells_what_was_told() -> None:
    line = dump_report({KEY: (1, 2, 3), "team/chat": (0, 0, 0)})
    assert line.endswith(b"}\n")
    key = ObjectKey("InferenceService", "default", "qwen")
    assert parse_report(line) == {key: Load(1, 2, 3), ObjectKey("InferenceService", "team", "chat"): Load()}


@pytest.mark.parametrize("line", [b"", b"[]", b"7", b'{"a/b": 7}', b'{"a/b": [1, 2]}', b'{"a/b": [1, 2, "x"]}'])
def test_what_is_no_report_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        parse_report(line)
