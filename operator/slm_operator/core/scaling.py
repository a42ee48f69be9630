"""What a service says whose number of engines follows demand."""

import math
from dataclasses import dataclass

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.core.conditions import Verdict, find_condition
from slm_operator.core.plan import EventRecord, ObjectKey


@dataclass(frozen=True)
class Scaling:
    """How many engines a service has whose number follows demand."""

    replicas: int
    why: str
    """The rest of a sentence."""
    look_again_seconds: float
    """After so long time alone may change it."""


def look_again(scaling: Scaling | None, *others: float | None) -> float | None:
    """Seconds until the service must be looked at again; None: only a change matters."""
    due = min([scaling.look_again_seconds if scaling else math.inf, *(each for each in others if each is not None)])
    return None if math.isinf(due) else due


def judge_zero(scaling: Scaling) -> Verdict:
    """A service without engines is ready: its first request starts one."""
    message = f"No engine runs: {scaling.why} The first request through the gateway starts one."
    return Verdict("ready", Reason.SCALED_TO_ZERO, message)


def judge_waking(service: InferenceService, verdict: Verdict) -> Verdict:
    """A service that wakes stays ready: the gateway has promised to wait for its engines."""
    autoscaling = service.spec.autoscaling
    before = find_condition(service.status.conditions, "Ready")
    sleeps = autoscaling is not None and autoscaling.min_replicas == 0
    if verdict.reason != Reason.STARTING or not sleeps or before is None or before.status != "True":
        return verdict
    return Verdict("ready", Reason.STARTING, f"{verdict.message} Requests wait in the gateway until then.")


def build_scaled(about: ObjectKey, before: int | None, after: int, scaling: Scaling | None) -> tuple[EventRecord, ...]:
    """One Event when the number of engines is about to be changed; ``before`` is None where there is none yet."""
    if before in (None, after):
        return ()
    why = f", as demand asks for: {scaling.why}" if scaling else "."
    return (EventRecord(about, "Normal", Reason.SCALED, f"Scaled from {before} to {after} engines{why}"),)
