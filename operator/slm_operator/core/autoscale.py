"""How many engines a service needs, whether they may sleep, and why: a pure function of what gateways report.

The form is that of Knative's KPA (knative/serving, ``pkg/autoscaler/scaling/autoscaler.go``): a stable window decides
in calm times, a short panic window only ever adds, and rates are bounded by the engines that are ready. Going down
takes the highest need within a delay, as HPA's stabilization window does (kubernetes/kubernetes,
``pkg/controller/podautoscaler/horizontal.go``). What differs comes from engines that take long to start:

- Gateways push, so the first request wakes a service in the call that reports it; KEDA's HTTP add-on asks its
  interceptors every 500 ms (kedacore/http-add-on, ``scaler/config.go``), KEDA itself polls every 30 s.
- A gateway that stops reporting makes nothing smaller: unknown is not zero.
- Before zero there is sleep, for engines that can drop their weights and keep their process.
"""

import math
from dataclasses import dataclass, replace

from slm_operator.core.autoscale_policy import Decision, Engines, Memory, Policy, Tier
from slm_operator.core.demand import PANIC_WINDOW_SECONDS, STABLE_WINDOW_SECONDS, STALE_SECONDS, Demand

PANIC_THRESHOLD = 2.0
"""Panic begins when the panic window needs so many times the engines that are ready; Knative's 200 %. It also begins
when requests exceed the slots, which Knative does not know: from then on every request waits."""
UP_FACTOR = 10.0
"""Engines grow at most to so many times those that are ready: where none becomes ready, more would not help."""
DOWN_FACTOR = 2
"""A step down leaves at least one in so many; Knative's ``max-scale-down-rate``."""
COOL_DOWN_SECONDS = 15.0
"""Between two steps down; HPA's period of its policies."""
TICK_SECONDS = 2.0
"""How soon to look again while averages move on their own; Knative's ``tick-interval``."""
BUCKETS = 20
"""The memory of needs holds the highest of each twentieth of the delay, so that it stays small."""


@dataclass(frozen=True)
class _Step:
    """A number of engines, and why."""

    replicas: int
    why: str


@dataclass(frozen=True)
class _Scene:
    """What one decision is made from."""

    policy: Policy
    demand: Demand
    engines: Engines
    memory: Memory
    now: float

    @property
    def known(self) -> bool:
        """Whether every gateway says what it holds."""
        return is_known(self.demand, self.now)

    @property
    def idle_seconds(self) -> float:
        """Since the last request was seen."""
        return self.now - (self.now if self.memory.active_at_seconds is None else self.memory.active_at_seconds)

    def is_idle_for(self, seconds: float | None) -> bool:
        """Whether there is no request, and was none for so long."""
        return self.known and not self.demand.total and seconds is not None and self.idle_seconds >= seconds


def is_known(demand: Demand, now: float) -> bool:
    """Whether there are reports, and no gateway stopped reporting."""
    return bool(demand.reports) and not demand.silent(now)


def decide(policy: Policy, demand: Demand, engines: Engines, memory: Memory, now: float) -> Decision:
    """The decision at ``now``, in seconds of the clock that the samples carry."""
    scene = _Scene(policy, demand, engines, _observe(policy, demand, engines, memory, now), now)
    need = _find_need(scene)
    scene = replace(scene, memory=replace(scene.memory, needs=_record(scene, need.replicas)))
    step = _bound(policy, _limit(scene, need))
    tier = _find_tier(scene, step.replicas)
    return Decision(
        step.replicas,
        tier,
        _describe(scene, step, tier),
        _look_again(scene, step.replicas, tier),
        _remember(scene.memory, engines.wanted, step.replicas, now),
    )


def _observe(policy: Policy, demand: Demand, engines: Engines, memory: Memory, now: float) -> Memory:
    """When a request was last seen, and whether this is a panic."""
    since = memory.active_at_seconds
    if since is None:
        # Nothing is known of the time before: taken as busy, and as just grown.
        since = now
        memory = Memory(up_at_seconds=now, needs=((now, engines.wanted),))
    seen = demand.active_at(since, now) if is_known(demand, now) else now
    memory = replace(memory, active_at_seconds=since if seen is None else max(since, seen))
    requests, ready = demand.average(PANIC_WINDOW_SECONDS, now), max(1, engines.ready)
    rush = policy.engines_for(requests)
    if rush >= PANIC_THRESHOLD * ready or requests > policy.slots * ready:
        return replace(memory, panic_at_seconds=now, panic_replicas=max(rush, memory.panic_replicas))
    over = now - memory.panic_at_seconds >= STABLE_WINDOW_SECONDS
    return replace(memory, panic_replicas=0 if over else max(rush, memory.panic_replicas))


def _find_need(scene: _Scene) -> _Step:
    """Engines that demand asks for, before rates and bounds."""
    demand, policy = scene.demand, scene.policy
    if scene.engines.wanted == 0 or scene.is_idle_for(policy.zero_after_seconds):
        return _find_need_at_zero(scene)
    average = demand.average(STABLE_WINDOW_SECONDS, scene.now)
    panic = scene.memory.panic_replicas
    needs = [
        _Step(
            policy.engines_for(average),
            f"{average:.1f} requests on average over {STABLE_WINDOW_SECONDS:.0f} s, at {policy.target:g} each",
        ),
        _Step(
            _find_floor(scene),
            f"{demand.in_flight} requests are being answered, at {policy.slots} slots each",
        ),
        _Step(
            panic,
            f"panic, as requests over {PANIC_WINDOW_SECONDS:.0f} s rose to what {panic} take at {policy.target:g} each",
        ),
        _Step(1, _describe_last(scene)),
    ]
    return max(needs, key=lambda step: step.replicas)


def _find_need_at_zero(scene: _Scene) -> _Step:
    """The need of a service that has no engines, or may have none."""
    waiting, idle = scene.demand.total, f"no request for {scene.idle_seconds:.0f} s"
    if waiting:
        count = f"{waiting} request waits" if waiting == 1 else f"{waiting} requests wait"
        needed = max(1, scene.policy.engines_for(waiting), _find_floor(scene))
        return _Step(needed, f"woken, as {count} and none runs")
    if scene.engines.wanted == 0:
        return _Step(0, idle)
    return _Step(0, f"{idle}, and zeroAfter is {scene.policy.zero_after_seconds:g} s")


def _find_floor(scene: _Scene) -> int:
    """Engines without which requests that are being answered would have no slot."""
    return math.ceil(scene.demand.in_flight / scene.policy.slots)


def _limit(scene: _Scene, need: _Step) -> _Step:
    """The need within what may change at once."""
    wanted, ready = scene.engines.wanted, scene.engines.ready
    if need.replicas < wanted:
        return _limit_down(scene, need)
    most = max(wanted, math.ceil(UP_FACTOR * max(1, ready)))
    if need.replicas <= most:
        return need
    return _Step(most, f"{need.replicas} are needed, but with {ready} ready at most {most} are started")


def _limit_down(scene: _Scene, need: _Step) -> _Step:
    wanted, memory, now = scene.engines.wanted, scene.memory, scene.now
    if not scene.known:
        return _Step(wanted, "kept")
    if need.replicas == 0:
        return need
    at, steady = max(memory.needs, key=lambda each: (each[1], each[0]))
    grown, shrunk = now - memory.up_at_seconds, now - memory.down_at_seconds
    if steady >= wanted:
        delay = scene.policy.scale_down_delay_seconds
        return _Step(wanted, f"kept, as {steady} were needed {now - at:.0f} s ago and scaleDownDelay is {delay:g} s")
    if grown < STABLE_WINDOW_SECONDS:
        return _Step(wanted, f"kept, as they grew {grown:.0f} s ago; {need.replicas} would do")
    if shrunk < COOL_DOWN_SECONDS:
        return _Step(wanted, f"kept, as they shrank {shrunk:.0f} s ago; {need.replicas} would do")
    least = max(steady, wanted // DOWN_FACTOR)
    return need if least == need.replicas else _Step(least, f"{need.replicas} would do, reached in steps")


def _bound(policy: Policy, step: _Step) -> _Step:
    """The step within minReplicas and maxReplicas."""
    low, high = policy.min_replicas, policy.max_replicas
    if step.replicas > high:
        return _Step(high, f"maxReplicas, although {step.replicas} are needed: {step.why}")
    if step.replicas < low:
        return _Step(low, f"minReplicas, although {step.replicas} would do: {step.why}")
    return step


def _record(scene: _Scene, replicas: int) -> tuple[tuple[float, int], ...]:
    """The needs within the delay, the highest of each bucket with the last time it was needed."""
    delay, now = scene.policy.scale_down_delay_seconds, scene.now
    kept = [(at, need) for at, need in scene.memory.needs if now - at < delay]
    width = delay / BUCKETS
    if kept and kept[-1][0] // width == now // width:
        last = kept.pop()
        kept.append(last if last[1] > replicas else (now, replicas))
    else:
        kept.append((now, replicas))
    return tuple(kept)


def _remember(memory: Memory, before: int, after: int, now: float) -> Memory:
    if after > before:
        return replace(memory, up_at_seconds=now)
    return replace(memory, down_at_seconds=now) if after < before else memory


def _find_tier(scene: _Scene, replicas: int) -> Tier:
    if replicas == 0:
        return Tier.ZERO
    if not scene.policy.can_sleep or scene.demand.total or scene.engines.wanted == 0:
        return Tier.HOT
    if not scene.known:
        return Tier.ASLEEP if scene.engines.asleep else Tier.HOT
    return Tier.ASLEEP if scene.is_idle_for(scene.policy.sleep_after_seconds) else Tier.HOT


def _look_again(scene: _Scene, replicas: int, tier: Tier) -> float | None:
    """Seconds until time alone can change the decision."""
    if tier is Tier.ZERO:
        return None
    moving = scene.demand.average(STABLE_WINDOW_SECONDS, scene.now) > 0 or scene.memory.panic_replicas > 0
    if moving or replicas > max(1, scene.policy.min_replicas):
        return TICK_SECONDS
    policy, idle = scene.policy, scene.idle_seconds
    deadlines = (policy.sleep_after_seconds if policy.can_sleep else None, policy.zero_after_seconds)
    return min([STALE_SECONDS, *(due - idle for due in deadlines if due is not None and due > idle)])


def _describe(scene: _Scene, step: _Step, tier: Tier) -> str:
    """The decision as a sentence."""
    count = "1 engine" if step.replicas == 1 else f"{step.replicas} engines"
    asleep = ", asleep" if tier is Tier.ASLEEP else ""
    if not scene.known:
        return f"{count}{asleep}: {step.why}; {_describe_silence(scene)}."
    if asleep:
        delay = scene.policy.sleep_after_seconds
        return f"{count}, asleep: no request for {scene.idle_seconds:.0f} s, and sleepAfter is {delay:g} s."
    return f"{count}: {step.why}."


def _describe_last(scene: _Scene) -> str:
    total = scene.demand.total
    if total:
        return "1 request is there" if total == 1 else f"{total} requests are there"
    policy, idle = scene.policy, f"no request for {scene.idle_seconds:.0f} s"
    if policy.min_replicas or policy.zero_after_seconds is None:
        return idle
    return f"{idle}, and zero comes after {policy.zero_after_seconds:g} s"


def _describe_silence(scene: _Scene) -> str:
    if not scene.demand.reports:
        return "no gateway has reported yet"
    silent = [f"{name} has not reported for {age:.0f} s" for name, age in scene.demand.silent(scene.now).items()]
    more = f" and {len(silent) - 1} more are silent" if len(silent) > 1 else ""
    return f"gateway {silent[0]}{more}: its requests are not known"
