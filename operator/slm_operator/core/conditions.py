"""Conditions after kstatus: Ready says whether, Reconciling and Stalled say what about it, Succeeded for jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from slm_contract.reasons import Reason
from slm_operator.api.meta import Condition
from slm_operator.core.plan import EventRecord, ObjectKey

State = Literal["ready", "progressing", "stalled", "idle"]
"""ready: done and well. progressing: work or waiting goes on. stalled: somebody must act. idle: told to rest."""


@dataclass(frozen=True)
class Verdict:
    """What a planner concludes about an object as a whole."""

    state: State
    reason: Reason
    message: str


def build_conditions(
    verdict: Verdict, previous: Sequence[Condition], generation: int, now: datetime, *, is_job: bool = False
) -> list[Condition]:
    """All conditions of an object; ``lastTransitionTime`` moves only when a status does."""
    wanted = {
        "Ready": verdict.state == "ready",
        "Reconciling": verdict.state == "progressing",
        "Stalled": verdict.state == "stalled",
    }
    if is_job:
        wanted = {"Succeeded": verdict.state == "ready", **wanted}
    before = {condition.type: condition for condition in previous}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    result = []
    for kind, holds in wanted.items():
        status: Literal["True", "False"] = "True" if holds else "False"
        old = before.get(kind)
        changed = old is None or old.status != status
        result.append(
            Condition(
                type=kind,
                status=status,
                reason=verdict.reason,
                message=verdict.message,
                last_transition_time=stamp if changed or old is None else old.last_transition_time,
                observed_generation=generation,
            )
        )
    return result


def build_events(about: ObjectKey, verdict: Verdict, previous: Sequence[Condition]) -> tuple[EventRecord, ...]:
    """One Event when the reason changed, with the sentence of the condition."""
    before = next((condition for condition in previous if condition.type == "Ready"), None)
    if before is not None and before.reason == verdict.reason and _same(before.message, verdict):
        return ()
    kind = "Warning" if verdict.state == "stalled" else "Normal"
    return (EventRecord(about, kind, verdict.reason, verdict.message),)


def _same(message: str, verdict: Verdict) -> bool:
    # A working object's sentence follows its progress; only a failure's wording is news of its own.
    return verdict.state != "stalled" or message == verdict.message
