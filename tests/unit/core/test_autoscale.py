"""Engines follow demand: up at once where requests wait, down late, to zero last, and never on what is not known."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_operator.core.autoscale import decide
from slm_operator.core.autoscale_limit import UP_FACTOR
from slm_operator.core.autoscale_policy import Decision, Engines, Memory, Policy, Tier
from slm_operator.core.demand import Demand, Sample

POLICY = Policy(0, 8, 4, target_in_flight=2.0, scale_down_delay_seconds=60.0, zero_after_seconds=300.0)


@dataclass
class Service:
    """A service whose engines become ready some seconds after they are wanted."""

    policy: Policy = POLICY
    wanted: int = 0
    start_seconds: float = 0.0
    now: float = 1000.0
    demand: Demand = field(default_factory=Demand)
    memory: Memory = field(default_factory=Memory)
    tier: Tier = Tier.ZERO
    history: list[int] = field(default_factory=list)
    _ready_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ready_at = [-math.inf] * self.wanted

    def report(self, in_flight: int, queued: int = 0, gateway: str = "gw-1", begun: int | None = None) -> Decision:
        self.demand = self.demand.add(Sample(gateway, self.now, in_flight, queued, begun))
        return self.decide()

    def decide(self) -> Decision:
        ready = sum(1 for at in self._ready_at if at <= self.now)
        engines = Engines(self.wanted, ready, self.tier is Tier.ASLEEP)
        decision = decide(self.policy, self.demand, engines, self.memory, self.now)
        grown = decision.replicas - self.wanted
        self._ready_at += [self.now + self.start_seconds] * grown
        self._ready_at = sorted(self._ready_at)[: decision.replicas]
        self.wanted, self.tier, self.memory = decision.replicas, decision.tier, decision.memory
        self.history.append(self.wanted)
        return decision

    def run(self, seconds: int, in_flight: int, queued: int = 0, every: int = 1) -> Decision:
        """Report the same again and again."""
        for _ in range(max(1, seconds // every)):
            self.now += every
            decision = self.report(in_flight, queued)
        return decision


def test_the_first_request_wakes_in_the_call_that_reports_it() -> None:
    service = Service()
    service.run(30, 0)
    decision = service.report(0, queued=1)
    assert (decision.replicas, decision.tier) == (1, Tier.HOT)
    assert decision.reason == "1 engine: woken, as 1 request waits and none runs."


def test_requests_that_wait_at_zero_wake_as_many_engines_as_they_need() -> None:
    decision = Service().report(0, queued=7)
    assert (decision.replicas, decision.reason) == (4, "4 engines: woken, as 7 requests wait and none runs.")


def test_calm_demand_is_followed_on_average() -> None:
    service = Service(wanted=4)
    service.run(100, 8)
    decision = service.run(60, 9)
    assert decision.reason == "5 engines: 9.0 requests on average over 60 s, at 2 each."


def test_a_burst_is_answered_within_the_panic_window_and_not_taken_back_in_it() -> None:
    service = Service(wanted=2)
    service.run(100, 3)
    assert service.run(2, 3, 9).replicas == 2
    decision = service.run(4, 3, 9)
    assert decision.replicas == 6
    assert decision.reason == "6 engines: panic, as requests over 6 s rose to what 6 take at 2 each."
    assert service.run(50, 3).replicas == 6


def test_requests_beyond_the_slots_are_a_panic_however_many_engines_there_are() -> None:
    service = Service(replace(POLICY, target_in_flight=4.0), wanted=4)
    service.run(100, 14)
    decision = service.run(6, 16, 4)
    assert decision.replicas == 5
    assert decision.reason == "5 engines: panic, as requests over 6 s rose to what 5 take at 4 each."


def test_a_panic_ends_a_stable_window_after_its_cause() -> None:
    service = Service(POLICY, wanted=2)
    service.run(100, 3)
    service.run(10, 12)
    assert service.run(60, 3).replicas == 6
    service.run(180, 3)
    assert service.wanted == 2


def test_down_comes_after_the_delay() -> None:
    service = Service(wanted=8)
    service.run(30, 16)
    assert service.run(25, 2).replicas == 8
    assert service.run(160, 2).replicas == 1


def test_bursts_that_recur_keep_their_engines_and_those_that_do_not_lose_them() -> None:
    service = Service(wanted=1)
    for _ in range(6):
        service.run(60, 12)
        service.run(140, 1)
    decision = service.decide()
    assert decision.replicas == 6
    assert decision.reason == "6 engines: kept, as bursts needed 6 in an eighth of the last 20 minutes."
    assert service.run(1500, 1).replicas == 1


def test_a_queue_of_short_requests_starts_no_engines_that_would_come_too_late() -> None:
    def burst(service_seconds: float) -> Service:
        service = Service(replace(POLICY, target_in_flight=4.0), wanted=1, start_seconds=25.0)
        service.run(100, 1)
        service.demand = Demand()
        for _ in range(60):
            service.now += 1.0
            service.report(2, begun=round(2 / service_seconds) if service_seconds < 2 else int(service.now) % 20 < 2)
        for left in (30, 24, 18, 12, 6):
            service.now += 1.0
            service.report(4, left - 4, begun=30 if left == 30 else 0)
        return service

    assert burst(0.5).wanted < burst(20.0).wanted


def test_a_step_down_leaves_half() -> None:
    service = Service(replace(POLICY, scale_down_delay_seconds=0.0), wanted=8)
    service.run(70, 16)
    service.demand = Demand()
    decision = service.report(2)
    assert (decision.replicas, decision.reason) == (4, "4 engines: 1 would do, reached in steps.")


def test_a_kept_engine_says_when_it_was_needed() -> None:
    service = Service(wanted=4)
    service.run(200, 8)
    decision = service.run(30, 0)
    assert decision.replicas == 4
    assert decision.reason == "4 engines: kept, as 4 were needed 15 s ago and scaleDownDelaySeconds is 60."


def test_steps_down_keep_their_distance() -> None:
    service = Service(replace(POLICY, scale_down_delay_seconds=0.0), wanted=8)
    service.run(70, 16)
    service.run(80, 0)
    at = [number for number, (a, b) in enumerate(pairwise(service.history)) if b < a]
    assert len(at) > 1
    assert min(b - a for a, b in pairwise(at)) >= 15


def test_zero_comes_after_the_time_without_a_request_and_not_before() -> None:
    service = Service(wanted=1)
    service.run(10, 1)
    assert service.run(300, 0).replicas == 1
    decision = service.run(1, 0)
    assert (decision.replicas, decision.tier) == (0, Tier.ZERO)
    assert decision.reason == "0 engines: no request for 300 s, and zeroAfterSeconds is 300."
    assert decision.look_again_seconds is None


def test_short_requests_between_reports_keep_a_service_from_zero() -> None:
    service = Service(wanted=1)
    for _ in range(20):
        service.run(99, 0)
        service.now += 1.0
        service.demand = service.demand.add(Sample("gw-1", service.now, begun=1))
        service.decide()
    assert service.wanted == 1


def test_min_replicas_stay_and_say_so() -> None:
    service = Service(replace(POLICY, min_replicas=2), wanted=5)
    decision = service.run(400, 0)
    assert (decision.replicas, decision.tier) == (2, Tier.HOT)
    assert (
        decision.reason
        == "2 engines: minReplicas, although 0 would do: no request for 399 s, and zeroAfterSeconds is 300."
    )


def test_max_replicas_bound_and_say_so() -> None:
    decision = Service().report(0, queued=40)
    assert decision.replicas == 8
    assert decision.reason.startswith("8 engines: maxReplicas, although 10 are needed: 20 are needed, but with 0 ready")


def test_where_no_engine_becomes_ready_no_herd_is_started() -> None:
    service = Service(replace(POLICY, max_replicas=100), start_seconds=math.inf)
    decision = service.run(100, 0, queued=100)
    assert decision.replicas == 10
    assert decision.reason == "10 engines: 50 are needed, but with 0 ready at most 10 are started."


def test_a_service_falls_asleep_before_zero_and_wakes_at_once() -> None:
    service = Service(replace(POLICY, sleep_after_seconds=120.0, can_sleep=True), wanted=1)
    service.run(10, 1)
    assert service.run(120, 0).tier is Tier.HOT
    decision = service.run(1, 0)
    assert (decision.replicas, decision.tier) == (1, Tier.ASLEEP)
    assert decision.reason == "1 engine, asleep: no request for 120 s, and sleepAfterSeconds is 120."
    assert service.report(0, queued=1).tier is Tier.HOT
    service.run(290, 0)
    assert service.tier is Tier.ASLEEP
    assert service.run(12, 0).tier is Tier.ZERO


def test_an_engine_that_cannot_sleep_stays_hot() -> None:
    service = Service(replace(POLICY, sleep_after_seconds=120.0), wanted=1)
    assert service.run(200, 0).tier is Tier.HOT


def test_a_sleeping_service_with_min_replicas_keeps_its_processes() -> None:
    service = Service(replace(POLICY, min_replicas=1, sleep_after_seconds=60.0, can_sleep=True), wanted=1)
    decision = service.run(1000, 0)
    assert (decision.replicas, decision.tier) == (1, Tier.ASLEEP)


def test_a_gateway_that_stops_reporting_is_not_zero_demand() -> None:
    service = Service(wanted=4)
    service.run(200, 8)
    service.now += 3600.0
    decision = service.decide()
    assert (decision.replicas, decision.tier) == (4, Tier.HOT)
    service.report(0, gateway="gw-2")
    assert service.run(1, 0).replicas == 4  # It is back, and the time it was away was not idle.


def test_silence_is_told_with_the_name_of_the_gateway() -> None:
    service = Service(wanted=4)
    service.report(8, gateway="gw-2")
    service.run(200, 0)
    decision = service.decide()
    silence = "gateway gw-2 has not reported for 200 s: its requests are not known."
    assert decision.reason == f"4 engines: 8.0 requests on average over 60 s, at 2 each; {silence}"
    service.report(0, gateway="gw-3")
    service.demand = service.demand.keep(["gw-1", "gw-3"])
    assert service.run(120, 0).reason.startswith("4 engines: kept; gateway gw-3 has not reported for 120 s")


def test_silence_does_not_keep_engines_from_being_added() -> None:
    service = Service(wanted=1)
    service.report(1, gateway="gw-2")
    assert service.run(60, 9).replicas >= 5


def test_time_in_silence_is_not_idle_time() -> None:
    service = Service(wanted=1)
    service.run(10, 0)
    service.now += 1000.0
    service.decide()
    assert service.run(299, 0).replicas == 1
    assert service.run(3, 0).replicas == 0


def test_a_gateway_that_is_gone_keeps_nothing() -> None:
    service = Service(wanted=4)
    service.report(8, gateway="gw-2")
    service.run(100, 0)
    service.demand = service.demand.keep(["gw-1"])
    assert service.run(400, 0).replicas == 0


def test_after_a_restart_engines_stay_until_demand_was_watched() -> None:
    service = Service(wanted=6)
    decision = service.decide()
    assert decision.replicas == 6
    assert decision.reason == "6 engines: kept; no gateway has reported yet."
    service.run(59, 2)
    assert service.wanted == 6
    service.run(120, 2)
    assert service.wanted == 1


def test_woken_for_requests_that_engines_already_answer_they_all_have_a_slot() -> None:
    assert Service(replace(POLICY, slots=1)).report(5).replicas == 5


def test_engines_that_answer_are_not_taken_away() -> None:
    policy = replace(POLICY, target_in_flight=4.0, scale_down_delay_seconds=0.0)
    service = Service(policy, wanted=4)
    service.run(100, 2)
    assert service.wanted == 1
    decision = service.report(9)
    assert decision.replicas == 3
    assert decision.reason == "3 engines: 9 requests are being answered, at 4 slots each."


def test_the_target_comes_from_the_slots() -> None:
    assert Policy(0, 1, 8).target == pytest.approx(5.6)
    assert Policy(0, 1, 1).target == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "minReplicas and maxReplicas are 3 and 2: set 0 <= minReplicas"),
        ({"max_replicas": 0}, "are 0 and 0: set 0 <= minReplicas <= maxReplicas, at least 1"),
        ({"slots": 0}, "spec.parallel is 0: an engine needs at least 1 slot"),
        ({"target_in_flight": 0.0}, "spec.autoscaling.targetInFlight is 0: set more than 0"),
        ({"zero_after_seconds": -1.0}, "spec.autoscaling.zeroAfterSeconds is -1: set 0 or more"),
        ({"scale_down_delay_seconds": math.nan}, "spec.autoscaling.scaleDownDelaySeconds is nan: set 0 or more"),
    ],
)
def test_a_policy_that_makes_no_sense_says_what_to_change(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Policy(**{"min_replicas": 0, "max_replicas": 4, "slots": 4} | changes)  # type: ignore[arg-type]


policies = st.builds(
    Policy,
    min_replicas=st.integers(0, 3),
    max_replicas=st.integers(3, 40),
    slots=st.integers(1, 16),
    target_in_flight=st.none() | st.floats(0.5, 20.0),
    scale_down_delay_seconds=st.sampled_from([0.0, 7.0, 60.0, 300.0]),
    sleep_after_seconds=st.none() | st.sampled_from([0.0, 30.0, 400.0]),
    zero_after_seconds=st.none() | st.sampled_from([0.0, 45.0, 300.0]),
    can_sleep=st.booleans(),
)
phases = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(policies, phases, st.integers(0, 12), st.sampled_from([0.0, 3.0, 40.0]))
def test_whatever_happens_bounds_hold(
    policy: Policy, load: list[tuple[int, int, int]], wanted: int, start_seconds: float
) -> None:
    service = Service(policy, wanted=wanted, start_seconds=start_seconds)
    for seconds, in_flight, queued in load:
        for _ in range(seconds):
            before, ready = service.wanted, sum(1 for at in service._ready_at if at <= service.now + 1)
            decision = service.run(1, in_flight, queued)
            assert (0 if policy.min_replicas == 0 else policy.min_replicas) <= decision.replicas <= policy.max_replicas
            assert (decision.tier is Tier.ZERO) == (decision.replicas == 0)
            assert decision.look_again_seconds is None or decision.look_again_seconds > 0
            assert decision.replicas <= max(before, UP_FACTOR * max(1, ready), policy.min_replicas)
            if in_flight + queued:
                assert decision.tier is Tier.HOT
                assert decision.replicas >= 1
            if decision.replicas < before <= policy.max_replicas:
                assert decision.replicas >= min(before, math.ceil(in_flight / policy.slots))
            assert len(service.memory.needs) <= 21


@settings(max_examples=25, deadline=None)
@given(policies, phases, st.integers(0, 12), st.integers(1, 30), st.integers(0, 5))
def test_more_demand_never_gives_fewer_engines(
    policy: Policy, load: list[tuple[int, int, int]], wanted: int, more: int, ready: int
) -> None:
    now, less_demand, more_demand, memory = 1000.0, Demand(), Demand(), Memory()
    for seconds, in_flight, queued in load:
        for _ in range(0, seconds, 3):
            now += 3.0
            less_demand = less_demand.add(Sample("a", now, in_flight, queued))
            more_demand = more_demand.add(Sample("a", now, in_flight, queued + more))
        engines = Engines(wanted, min(ready, wanted))
        less, greater = (decide(policy, demand, engines, memory, now) for demand in (less_demand, more_demand))
        assert less.replicas <= greater.replicas
        wanted, memory = less.replicas, less.memory


@settings(max_examples=25, deadline=None)
@given(policies, st.integers(1, 60), st.sampled_from([0, 1]), st.integers(0, 12), st.sampled_from([0.0, 5.0, 40.0]))
def test_constant_demand_never_flaps(
    policy: Policy, requests: int, held: int, wanted: int, start_seconds: float
) -> None:
    service = Service(policy, wanted=wanted, start_seconds=start_seconds)
    busy = 0 if held else requests
    service.run(900, busy, requests - busy, every=5)
    changes = [after - before for before, after in pairwise(service.history)]
    turns = [change for change in changes if change]
    assert not any(a < 0 < b for a, b in pairwise(turns))
    settled = service.wanted
    assert service.run(300, busy, requests - busy, every=5).replicas == settled
    assert set(service.history[-60:]) == {settled}
    needed = max(1, policy.engines_for(requests), math.ceil(busy / policy.slots))
    assert settled == max(policy.min_replicas, min(policy.max_replicas, needed))


@settings(max_examples=25, deadline=None)
@given(policies, phases, st.integers(1, 12))
def test_zero_only_after_its_time_without_a_request(
    policy: Policy, load: list[tuple[int, int, int]], wanted: int
) -> None:
    service, last = Service(policy, wanted=wanted), 1001.0
    for seconds, in_flight, queued in load:
        for _ in range(seconds):
            before = service.wanted
            decision = service.run(3, in_flight, queued, every=3)
            if in_flight + queued:
                last = service.now
            if decision.tier is Tier.ZERO and before:
                assert policy.zero_after_seconds is not None
                assert policy.min_replicas == 0
                assert service.now - last >= policy.zero_after_seconds


@settings(max_examples=25, deadline=None)
@given(policies, phases, st.integers(1, 100))
def test_whatever_was_before_a_request_at_zero_or_asleep_wakes_at_once(
    policy: Policy, load: list[tuple[int, int, int]], waiting: int
) -> None:
    service = Service(policy)
    for seconds, in_flight, queued in load:
        service.run(seconds, in_flight, queued)
    service.run(500, 0, every=5)
    decision = service.report(0, queued=waiting)
    assert decision.tier is Tier.HOT
    assert decision.replicas >= 1


@settings(max_examples=25, deadline=None)
@given(policies, phases, st.integers(0, 12), st.integers(0, 12))
def test_deciding_again_at_once_changes_nothing(
    policy: Policy, load: list[tuple[int, int, int]], wanted: int, ready: int
) -> None:
    demand, memory, now = Demand(), Memory(), 1000.0
    for seconds, in_flight, queued in load:
        now += seconds
        demand = demand.add(Sample("a", now, in_flight, queued))
        first = decide(policy, demand, Engines(wanted, ready), memory, now)
        again = decide(policy, demand, Engines(first.replicas, ready), first.memory, now)
        assert (again.replicas, again.tier) == (first.replicas, first.tier)
        wanted, memory = first.replicas, first.memory


def test_the_memory_is_small_and_plain() -> None:
    service = Service(wanted=3)
    service.run(2000, 7)
    assert len(json.dumps(asdict(service.memory))) < 2000


def test_looking_again_when_told_is_enough() -> None:
    every, told = Service(wanted=3), Service(wanted=3)
    for service in (every, told):
        service.run(30, 6)
        service.report(0)
    every.run(400, 0)
    end = told.now + 400.0
    again: float | None = 0.0
    while again is not None and told.now + again <= end:
        told.now += again
        again = told.report(0).look_again_seconds
    assert (told.wanted, told.tier) == (every.wanted, every.tier) == (0, Tier.ZERO)
