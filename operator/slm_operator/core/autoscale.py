"""How many engines a service needs, whether they may sleep, and why: a pure function of what gateways report.

The form is that of Knative's KPA (knative/serving, ``pkg/autoscaler/scaling/autoscaler.go``): a stable window decides
in calm times, a short panic window only ever adds, and rates are bounded by the engines that are ready. Going down
takes the highest need within a delay, as HPA's stabilization window does (kubernetes/kubernetes,
``pkg/controller/podautoscaler/horizontal.go``). What differs comes from engines that take long to start:

- Gateways push, so the first request wakes a service in the call that reports it; KEDA's HTTP add-on asks its
  interceptors every 500 ms (kedacore/http-add-on, ``scaler/config.go``), KEDA itself polls every 30 s.
- A queue of short requests that would be gone before an engine has started does not count; one of long requests does.
- Bursts that recur keep the engines they need, which costs less than to keep the highest need for long after each.
- A gateway that stops reporting makes nothing smaller: unknown is not zero.
- Before zero there is sleep, for engines that can drop their weights and keep their process.
"""

from dataclasses import replace

from slm_operator.core.autoscale_limit import (
    BUCKETS,
    HABIT_BUCKET_SECONDS,
    HABIT_SECONDS,
    bound,
    limit,
    record,
)
from slm_operator.core.autoscale_need import find_need, find_rush
from slm_operator.core.autoscale_policy import Decision, Engines, Memory, Policy, Tier
from slm_operator.core.autoscale_scene import Scene, Step, is_known
from slm_operator.core.demand import STABLE_WINDOW_SECONDS, STALE_SECONDS, Demand

PANIC_THRESHOLD = 2.0
"""Panic begins when the panic window needs so many times the engines that are ready; Knative's 200 %. It also begins
when requests exceed the slots, which Knative does not know: from then on every request waits."""
TICK_SECONDS = 2.0
"""How soon to look again while averages move on their own; Knative's ``tick-interval``."""


def decide(policy: Policy, demand: Demand, engines: Engines, memory: Memory, now: float) -> Decision:
    """The decision at ``now``, in seconds of the clock that the samples carry."""
    scene = Scene(policy, demand, engines, _observe(policy, demand, engines, memory, now), now)
    need = find_need(scene)
    needs = record(scene.memory.needs, now, need.replicas, policy.scale_down_delay_seconds, BUCKETS)
    habit_buckets = round(HABIT_SECONDS / HABIT_BUCKET_SECONDS)
    habit = record(scene.memory.habit, now, need.replicas, HABIT_SECONDS, habit_buckets)
    scene = replace(scene, memory=replace(scene.memory, needs=needs, habit=habit))
    step = bound(policy, limit(scene, need))
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
    requests, ready = find_rush(demand, now), max(1, engines.ready)
    rush = policy.engines_for(requests)
    if rush >= PANIC_THRESHOLD * ready or requests > policy.slots * ready:
        return replace(memory, panic_at_seconds=now, panic_replicas=max(rush, memory.panic_replicas))
    over = now - memory.panic_at_seconds >= STABLE_WINDOW_SECONDS
    return replace(memory, panic_replicas=0 if over else max(rush, memory.panic_replicas))


def _remember(memory: Memory, before: int, after: int, now: float) -> Memory:
    if after > before:
        return replace(memory, up_at_seconds=now)
    return replace(memory, down_at_seconds=now) if after < before else memory


def _find_tier(scene: Scene, replicas: int) -> Tier:
    if replicas == 0:
        return Tier.ZERO
    if not scene.policy.can_sleep or scene.demand.total or scene.engines.wanted == 0:
        return Tier.HOT
    if not scene.known:
        return Tier.ASLEEP if scene.engines.asleep else Tier.HOT
    return Tier.ASLEEP if scene.is_idle_for(scene.policy.sleep_after_seconds) else Tier.HOT


def _look_again(scene: Scene, replicas: int, tier: Tier) -> float | None:
    """Seconds until time alone can change the decision."""
    if tier is Tier.ZERO:
        return None
    moving = scene.demand.average(STABLE_WINDOW_SECONDS, scene.now) > 0 or scene.memory.panic_replicas > 0
    if moving or replicas > max(1, scene.policy.min_replicas):
        return TICK_SECONDS
    policy, idle = scene.policy, scene.idle_seconds
    deadlines = (policy.sleep_after_seconds if policy.can_sleep else None, policy.zero_after_seconds)
    return min([STALE_SECONDS, *(due - idle for due in deadlines if due is not None and due > idle)])


def _describe(scene: Scene, step: Step, tier: Tier) -> str:
    """The decision as a sentence."""
    count = "1 engine" if step.replicas == 1 else f"{step.replicas} engines"
    asleep = ", asleep" if tier is Tier.ASLEEP else ""
    if not scene.known:
        return f"{count}{asleep}: {step.why}; {_describe_silence(scene)}."
    if asleep:
        delay = scene.policy.sleep_after_seconds
        return f"{count}, asleep: no request for {scene.idle_seconds:.0f} s, and sleepAfterSeconds is {delay:g}."
    return f"{count}: {step.why}."


def _describe_silence(scene: Scene) -> str:
    if not scene.demand.reports:
        return "no gateway has reported yet"
    silent = [f"{name} has not reported for {age:.0f} s" for name, age in scene.demand.silent(scene.now).items()]
    more = f" and {len(silent) - 1} more are silent" if len(silent) > 1 else ""
    return f"gateway {silent[0]}{more}: its requests are not known"
