"""Averages are weighted by time, whoever reports how often; what no longer exists holds no requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.core.demand import STABLE_WINDOW_SECONDS, STALE_SECONDS, Demand, Sample


def demand_of(*samples: tuple[str, float, int]) -> Demand:
    demand = Demand()
    for gateway, at_seconds, in_flight in samples:
        demand = demand.add(Sample(gateway, at_seconds, in_flight))
    return demand


def test_a_report_holds_until_the_next_one() -> None:
    demand = demand_of(("a", 0.0, 0), ("a", 30.0, 4), ("a", 45.0, 8))
    assert demand.average(60.0, 60.0) == pytest.approx((15 * 4 + 15 * 8) / 60)


def test_gateways_add_up() -> None:
    demand = demand_of(("a", 0.0, 3), ("b", 10.0, 5))
    assert (demand.total, demand.in_flight) == (8, 8)
    assert demand.average(10.0, 20.0) == pytest.approx(8.0)
    assert demand.average(20.0, 20.0) == pytest.approx(3 + 5 / 2)


def test_what_held_when_the_window_began_counts() -> None:
    demand = demand_of(("a", 0.0, 6), ("a", 100.0, 0))
    assert demand.average(60.0, 100.0) == pytest.approx(6.0)


def test_queued_requests_are_demand() -> None:
    demand = Demand().add(Sample("a", 0.0, in_flight=2, queued=5))
    assert (demand.total, demand.in_flight) == (7, 2)


def test_a_report_that_was_overtaken_is_left_out() -> None:
    assert demand_of(("a", 5.0, 1), ("a", 4.0, 9)).total == 1


def test_a_gateway_that_is_gone_takes_its_requests_along() -> None:
    assert demand_of(("a", 0.0, 3), ("b", 0.0, 5)).keep(["b"]).total == 5


def test_a_gateway_is_silent_after_the_time_and_not_before() -> None:
    demand = demand_of(("a", 0.0, 3), ("b", 5.0, 5))
    assert demand.silent(STALE_SECONDS) == {}
    assert demand.silent(STALE_SECONDS + 1) == {"a": STALE_SECONDS + 1}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([Sample("a", 0.0, 1)], 50.0),
        ([Sample("a", 0.0, 1), Sample("a", 7.0)], 7.0),
        ([Sample("a", 0.0, 1), Sample("a", 7.0), Sample("a", 9.0)], 7.0),
        ([Sample("a", 0.0), Sample("a", 9.0, begun=3), Sample("a", 20.0)], 9.0),
        ([Sample("a", 0.0), Sample("a", 9.0)], None),
    ],
    ids=["one is there", "it ended", "it ended before the last report", "short ones between reports", "none was"],
)
def test_the_last_request_is_found(samples: list[Sample], expected: float | None) -> None:
    demand = Demand()
    for sample in samples:
        demand = demand.add(sample)
    assert demand.active_at(0.0, 50.0) == expected


def counted(*samples: tuple[float, int, int, int | None]) -> Demand:
    demand = Demand()
    for at_seconds, in_flight, queued, begun in samples:
        demand = demand.add(Sample("a", at_seconds, in_flight, queued, begun))
    return demand


def test_the_rate_is_what_came_within_the_time() -> None:
    assert counted((0.0, 0, 0, 9), (55.0, 3, 0, 3), (60.0, 5, 0, 6)).rate(6.0, 60.0) == pytest.approx(9 / 6)


def test_the_service_time_is_time_in_engines_by_requests_that_ended() -> None:
    # Two are answered all the time and five wait; of 12 that came and 4 that were there, 7 are left.
    demand = counted((0.0, 2, 2, 0), (30.0, 2, 5, 6), (60.0, 2, 5, 6))
    assert demand.service_seconds(60.0) == pytest.approx(2 * 60 / 9)


def test_the_service_time_is_not_known_where_nobody_counts_or_nothing_ended() -> None:
    assert counted((0.0, 2, 0, 0), (30.0, 2, 0, None), (60.0, 0, 0, 6)).service_seconds(60.0) is None
    assert counted((0.0, 2, 0, 0), (60.0, 2, 3, 3)).service_seconds(60.0) is None
    assert Demand().service_seconds(60.0) is None


steps = st.lists(st.tuples(st.floats(0.1, 20.0), st.integers(0, 50)), min_size=1, max_size=40)


@given(steps, st.integers(1, 5))
def test_repeating_a_report_changes_nothing(changes: list[tuple[float, int]], repeats: int) -> None:
    plain, chatty, at = Demand(), Demand(), 0.0
    for gap, in_flight in changes:
        for number in range(repeats):
            chatty = chatty.add(Sample("a", at + gap * number / repeats, in_flight))
        plain = plain.add(Sample("a", at, in_flight))
        at += gap
    assert chatty.average(STABLE_WINDOW_SECONDS, at) == pytest.approx(plain.average(STABLE_WINDOW_SECONDS, at))


@given(steps)
def test_what_is_forgotten_did_not_matter(changes: list[tuple[float, int]]) -> None:
    demand, at, area, series = Demand(), 0.0, 0.0, []
    for gap, in_flight in changes:
        demand = demand.add(Sample("a", at, in_flight))
        series.append((at, at + gap, in_flight))
        at += gap
    for begin, end, in_flight in series:
        area += in_flight * max(0.0, min(end, at) - max(begin, at - STABLE_WINDOW_SECONDS))
    assert demand.average(STABLE_WINDOW_SECONDS, at) == pytest.approx(area / STABLE_WINDOW_SECONDS)
    assert all(sample.at_seconds > at - STABLE_WINDOW_SECONDS - 20.0 for sample in demand.reports["a"][1:])
