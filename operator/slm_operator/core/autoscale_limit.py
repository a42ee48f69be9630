"""What of a need may happen at once: rates, delays and bounds."""

import math

from slm_operator.core.autoscale_policy import Policy
from slm_operator.core.autoscale_scene import Scene, Step
from slm_operator.core.demand import STABLE_WINDOW_SECONDS

UP_FACTOR = 10.0
"""Engines grow at most to so many times those that are ready: where none becomes ready, more would not help."""
DOWN_FACTOR = 2
"""A step down leaves at least one in so many; Knative's ``max-scale-down-rate``."""
COOL_DOWN_SECONDS = 15.0
"""Between two steps down; HPA's period of its policies."""
HABIT_SECONDS = 1200.0
"""How far back recurring bursts are remembered."""
HABIT_BUCKET_SECONDS = 30.0
"""About the time an engine takes to start: what was needed at any moment of it was needed for all of it."""
HABIT_SHARE = 0.175
"""Engines that were needed in more than this share of that time stay: the next burst comes sooner than they would be
back."""
BUCKETS = 20
"""The memory of needs holds the highest of each twentieth of the delay, so that it stays small."""
Needs = tuple[tuple[float, int], ...]
"""(when last, engines needed), oldest first."""


def limit(scene: Scene, need: Step) -> Step:
    """The need within what may change at once."""
    wanted, ready = scene.engines.wanted, scene.engines.ready
    if need.replicas < wanted:
        return _limit_down(scene, need)
    most = max(wanted, math.ceil(UP_FACTOR * max(1, ready)))
    if need.replicas <= most:
        return need
    return Step(most, f"{need.replicas} are needed, but with {ready} ready at most {most} are started")


def _limit_down(scene: Scene, need: Step) -> Step:
    wanted = scene.engines.wanted
    if not scene.known:
        return Step(wanted, "kept")
    if need.replicas == 0:
        return need
    for check in (_check_delay, _check_habit, _check_pace):
        kept = check(scene, need)
        if kept:
            return Step(wanted, f"kept, as {kept}")
    least = max(_find_steady(scene)[1], find_usual(scene.memory.habit), wanted // DOWN_FACTOR)
    return need if least == need.replicas else Step(least, f"{need.replicas} would do, reached in steps")


def _find_steady(scene: Scene) -> tuple[float, int]:
    """(when, the most engines) that were needed within the delay."""
    return max(scene.memory.needs, key=lambda each: (each[1], each[0]))


def _check_delay(scene: Scene, _need: Step) -> str:
    """Whether all of them were needed a short time ago."""
    at, steady = _find_steady(scene)
    delay = scene.policy.scale_down_delay_seconds
    if steady < scene.engines.wanted:
        return ""
    return f"{steady} were needed {scene.now - at:.0f} s ago and scaleDownDelaySeconds is {delay:g}"


def _check_habit(scene: Scene, _need: Step) -> str:
    """Whether bursts that recur need all of them."""
    usual = find_usual(scene.memory.habit)
    if usual < scene.engines.wanted:
        return ""
    return f"bursts needed {usual} in an eighth of the last {HABIT_SECONDS / 60:.0f} minutes"


def _check_pace(scene: Scene, need: Step) -> str:
    """Whether they changed just now."""
    memory, now = scene.memory, scene.now
    if now - memory.up_at_seconds < STABLE_WINDOW_SECONDS:
        return f"they grew {now - memory.up_at_seconds:.0f} s ago; {need.replicas} would do"
    if now - memory.down_at_seconds < COOL_DOWN_SECONDS:
        return f"they shrank {now - memory.down_at_seconds:.0f} s ago; {need.replicas} would do"
    return ""


def bound(policy: Policy, step: Step) -> Step:
    """The step within minReplicas and maxReplicas."""
    low, high = policy.min_replicas, policy.max_replicas
    if step.replicas > high:
        return Step(high, f"maxReplicas, although {step.replicas} are needed: {step.why}")
    if step.replicas < low:
        return Step(low, f"minReplicas, although {step.replicas} would do: {step.why}")
    return step


def record(needs: Needs, now: float, replicas: int, window: float, buckets: int) -> Needs:
    """The needs within the window, the highest of each bucket with the last time it was needed."""
    kept = [(at, need) for at, need in needs if now - at < window]
    width = window / buckets
    if kept and kept[-1][0] // width == now // width:
        last = kept.pop()
        kept.append(last if last[1] > replicas else (now, replicas))
    else:
        kept.append((now, replicas))
    return tuple(kept)


def find_usual(habit: Needs) -> int:
    """Engines that were needed in more than HABIT_SHARE of HABIT_SECONDS; time without a decision needed none."""
    needs = sorted((need for _, need in habit), reverse=True)
    rank = int(HABIT_SHARE * HABIT_SECONDS / HABIT_BUCKET_SECONDS)
    return needs[rank] if rank < len(needs) else 0
