"""How many engines demand asks for, before rates and bounds."""

import math

from slm_operator.core.autoscale_scene import Scene, Step
from slm_operator.core.demand import PANIC_WINDOW_SECONDS, STABLE_WINDOW_SECONDS, Demand

DRAIN_SECONDS = 30.0
"""A queue may take so long to be worked off: about what an engine takes to start."""


def find_rush(demand: Demand, now: float) -> float:
    """Requests of the panic window that more engines would help with.

    A queue of short requests is gone before an engine has started: what counts is the load that comes (rate times
    service time) and, of the queue, what would be left by then.
    """
    requests, service = demand.average(PANIC_WINDOW_SECONDS, now), demand.service_seconds(now)
    if service is None:
        return requests
    load = demand.rate(PANIC_WINDOW_SECONDS, now) * service
    return min(requests, load + demand.total * min(1.0, service / DRAIN_SECONDS))


def find_need(scene: Scene) -> Step:
    """Engines that demand asks for, before rates and bounds."""
    demand, policy = scene.demand, scene.policy
    if scene.engines.wanted == 0 or scene.is_idle_for(policy.zero_after_seconds):
        return _find_need_at_zero(scene)
    average = demand.average(STABLE_WINDOW_SECONDS, scene.now)
    panic = scene.memory.panic_replicas
    needs = [
        Step(
            policy.engines_for(average),
            f"{average:.1f} requests on average over {STABLE_WINDOW_SECONDS:.0f} s, at {policy.target:g} each",
        ),
        Step(
            find_floor(scene),
            f"{demand.in_flight} requests are being answered, at {policy.slots} slots each",
        ),
        Step(
            panic,
            f"panic, as requests over {PANIC_WINDOW_SECONDS:.0f} s rose to what {panic} take at {policy.target:g} each",
        ),
        Step(1, _describe_last(scene)),
    ]
    return max(needs, key=lambda step: step.replicas)


def _find_need_at_zero(scene: Scene) -> Step:
    """The need of a service that has no engines, or may have none."""
    waiting, idle = scene.demand.total, f"no request for {scene.idle_seconds:.0f} s"
    if waiting:
        count = f"{waiting} request waits" if waiting == 1 else f"{waiting} requests wait"
        needed = max(1, scene.policy.engines_for(waiting), find_floor(scene))
        return Step(needed, f"woken, as {count} and none runs")
    if scene.engines.wanted == 0:
        return Step(0, idle)
    return Step(0, f"{idle}, and zeroAfterSeconds is {scene.policy.zero_after_seconds:g}")


def find_floor(scene: Scene) -> int:
    """Engines without which requests that are being answered would have no slot."""
    return math.ceil(scene.demand.in_flight / scene.policy.slots)


def _describe_last(scene: Scene) -> str:
    total = scene.demand.total
    if total:
        return "1 request is there" if total == 1 else f"{total} requests are there"
    policy, idle = scene.policy, f"no request for {scene.idle_seconds:.0f} s"
    if policy.min_replicas or policy.zero_after_seconds is None:
        return idle
    return f"{idle}, and zero comes after {policy.zero_after_seconds:g} s"
