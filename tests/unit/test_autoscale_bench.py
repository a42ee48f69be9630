"""The simulation loses no request, and its baselines do what HPA and KEDA document."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.bench import autoscale
from tests.bench.scalers import TARGET, HpaLike, KedaHttpLike, KedaLike, Ours
from tests.bench.serving_day import MINUTE_VARIATION, Request, draw_day, read_trace
from tests.bench.serving_simulation import (
    HOLD_SECONDS,
    MAX_REPLICAS,
    QUEUE_LENGTH,
    SLOTS,
    START_SECONDS,
    TAIL_SECONDS,
    Outcome,
    Scaler,
    Simulation,
    View,
)

MORNING = (0.02, 0.3, 1.0)


@dataclass
class Fixed:
    """Always the same number of engines."""

    min_replicas: int
    asked: list[float] = field(default_factory=list)

    def due(self, view: View, now: float) -> float:  # noqa: ARG002
        return now + 60.0

    def decide(self, view: View, now: float) -> int:  # noqa: ARG002
        self.asked.append(now)
        return self.min_replicas


def run(requests: list[Request], scaler: Scaler) -> Outcome:
    return Simulation(requests, scaler).run()


@pytest.mark.parametrize("subject", [Ours, KedaLike, KedaHttpLike, HpaLike])
def test_no_request_is_lost_and_engines_are_paid_for(subject: type[Scaler]) -> None:
    day = draw_day(7, MORNING)
    outcome = run(day, subject())
    assert len(outcome.queue_seconds) + outcome.rejected == len(day)
    busy_seconds = sum(request.service_seconds for request in day)
    assert outcome.replica_seconds * SLOTS > busy_seconds * 0.99
    assert outcome.replica_seconds < MAX_REPLICAS * (day[-1].at_seconds + TAIL_SECONDS + START_SECONDS)
    assert max(wanted for _, wanted, _ in outcome.series) <= MAX_REPLICAS


def test_requests_wait_for_a_start_and_for_a_slot_in_their_order() -> None:
    day = [Request(10.0, 5.0)] + [Request(50.0, 5.0) for _ in range(SLOTS + 1)]
    outcome = run(day, Fixed(1))
    assert outcome.queue_seconds == [START_SECONDS - 10.0, *[0.0] * SLOTS, 5.0]


def test_a_full_queue_and_a_long_wait_are_refusals() -> None:
    full = run([Request(1.0, 1.0) for _ in range(QUEUE_LENGTH + 3)], Fixed(0))
    assert (len(full.queue_seconds), full.rejected) == (0, QUEUE_LENGTH + 3)
    long = run([Request(0.0, 2 * HOLD_SECONDS) for _ in range(SLOTS)] + [Request(30.0, 1.0)], Fixed(1))
    assert (len(long.queue_seconds), long.rejected) == (SLOTS, 1)


def test_a_service_at_zero_costs_nothing_and_wakes_for_its_first_request() -> None:
    outcome = run([Request(5000.0, 1.0)], Ours())
    assert outcome.queue_seconds == [pytest.approx(START_SECONDS + 0.2)]
    assert outcome.from_zero == 1
    assert outcome.replica_seconds < 400


def follow(scaler: Scaler, demand: list[tuple[float, int]], wanted: int) -> list[int]:
    """What it wants at each moment, given the requests there."""
    seen = []
    for now, total in demand:
        view = View(in_flight=total, wanted=wanted, ready=wanted)
        if scaler.due(view, now) <= now:
            wanted = scaler.decide(view, now)
        seen.append(wanted)
    return seen


def test_hpa_like_bears_a_tenth_more_and_acts_every_15_seconds() -> None:
    within, beyond = 2 * TARGET * 1.1, 2 * TARGET * 1.2
    assert follow(HpaLike(), [(0.0, int(within)), (1.0, 99), (15.0, round(beyond))], 2) == [2, 2, 3]


def test_hpa_like_grows_by_four_or_doubles_and_shrinks_to_the_most_of_five_minutes() -> None:
    assert follow(HpaLike(), [(0.0, 99)], 1) == [5]
    falling = [(15.0 * number, 20 if number == 0 else 1) for number in range(22)]
    wanted = follow(HpaLike(), falling, 8)
    assert (set(wanted[:21]), wanted[21]) == ({8}, 1)


def test_hpa_like_never_reaches_zero() -> None:
    assert follow(HpaLike(), [(15.0 * number, 0) for number in range(100)], 1)[-1] == 1


def test_keda_like_sees_a_request_at_its_poll_and_leaves_after_its_cooldown() -> None:
    seconds = [float(second) for second in range(0, 400, 5)]
    wanted = dict(zip(seconds, follow(KedaLike(), [(at, 1 if 5 <= at < 60 else 0) for at in seconds], 0), strict=True))
    assert (wanted[25.0], wanted[30.0]) == (0, 1)
    assert (wanted[325.0], wanted[330.0]) == (1, 0)  # Last seen at 30 s.


def test_keda_http_like_is_told_of_a_request_at_zero() -> None:
    scaler = KedaHttpLike()
    follow(scaler, [(0.0, 0)], 0)
    assert scaler.due(View(queued=1), 5.0) == 5.5


def test_the_drawn_day_is_the_same_again_and_as_bursty_as_was_measured() -> None:
    day = draw_day(3, (1.0,) * 8)
    assert day == draw_day(3, (1.0,) * 8)
    minutes = [0] * 480
    for request in day:
        minutes[int(request.at_seconds // 60)] += 1
    assert statistics.pstdev(minutes) / statistics.fmean(minutes) == pytest.approx(MINUTE_VARIATION, abs=0.15)
    assert statistics.fmean(request.service_seconds for request in day) == pytest.approx(5.8, abs=0.5)


def test_recorded_traces_are_read_and_thinned(tmp_path: Path) -> None:
    azure, burst = tmp_path / "azure.csv", tmp_path / "burst.csv"
    rows = [f"2023-11-16 18:17:{second:02}.9799600,4808,10" for second in range(60)]
    azure.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]), encoding="utf-8")
    assert len(read_trace(azure)) == 60
    assert read_trace(azure)[1] == Request(1.0, 0.75)
    rows = [f"{number / 10},ChatGPT,472,18,490,Conversation log" for number in range(600)]
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    burst.write_text("\n".join([header, *rows]), encoding="utf-8")
    assert len(read_trace(burst)) == 60
    empty = tmp_path / "empty.csv"
    empty.write_text(header, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"empty\.csv holds no requests: it needs the columns of Azure's or BurstGPT's"
    ):
        read_trace(empty)


def test_the_report_compares_every_subject_on_the_same_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(autoscale.TRACE, raising=False)
    report = autoscale.simulate((1, 2), MORNING, tmp_path / "autoscale.png")
    document = json.loads(report.write(tmp_path).read_text())
    assert list(document["figures"]) == ["slm autoscaler", "KEDA-like", "KEDA-HTTP-like", "HPA-like"]
    assert set(document["goals"]) <= set(document["ratios"])
    assert len(document["notes"]) == len(document["goals"])
    assert (tmp_path / "autoscale.png").stat().st_size > 10_000
