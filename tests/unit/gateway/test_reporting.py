"""What a gateway tells whoever scales engines."""

from collections import deque

import pytest

from slm_operator.gateway import reporting
from slm_operator.gateway.admission import Admissions
from slm_operator.gateway.reporting import Report, Reporter

KEY = "default/qwen"


class Loads(Admissions):
    """What is held at each look, and nothing more in the end."""

    def __init__(self, *looks: dict[str, tuple[int, int, int]]) -> None:
        self._looks = deque(looks)

    def loads(self) -> dict[str, tuple[int, int, int]]:
        return self._looks.popleft()


async def reports(*looks: dict[str, tuple[int, int, int]]) -> list[Report]:
    told: list[Report] = []

    async def send(report: Report) -> None:
        told.append(report)

    reporter = Reporter()
    with pytest.raises(IndexError):
        await reporter.run(Loads(*looks), send)
    return told


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
