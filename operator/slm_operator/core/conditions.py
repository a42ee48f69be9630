"""Conditions after kstatus: Ready says whether, Reconciling and Stalled say what about it, Succeeded for jobs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from slm_contract.base import Message
from slm_contract.reasons import Reason
from slm_operator.api.meta import Condition
from slm_operator.core.plan import EventRecord, Manifest, ObjectKey

State = Literal["ready", "progressing", "stalled", "idle"]
"""ready: done and well. progressing: work or waiting goes on. stalled: somebody must act. idle: told to rest."""

WORRYING = frozenset({Reason.POD_WAITING, Reason.DOES_NOT_FIT})
"""Reasons that may pass by themselves and yet are worth a warning."""
CONDITIONS = TypeAdapter(list[Condition])


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


def find_condition(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def concluded_at(conditions: Sequence[Condition]) -> datetime | None:
    """When the last condition changed: of finished work, when it was finished."""
    times = [found for item in conditions if (found := parse_time(item.last_transition_time)) is not None]
    return max(times, default=None)


def parse_time(text: str) -> datetime | None:
    """An RFC 3339 time, or None."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def dump_status(status: Message) -> Manifest:
    """The status as an API server takes it.

    Empty mappings are left out: where something was before, server-side apply would make ``null`` of them, which no
    schema takes.
    """
    told = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in told.items() if value != {}}


def restate(manifest: Manifest, verdict: Verdict, now: datetime) -> Manifest:
    """The status of an object as it is, with other conditions; the object may be too malformed to be parsed."""
    before = manifest.get("status") or {}
    generation = int(manifest["metadata"].get("generation", 1))
    is_job = manifest["kind"] == "QuantJob"
    conditions = build_conditions(verdict, read_conditions(before), generation, now, is_job=is_job)
    kept = {"observedGeneration": generation}
    return {**before, **kept, "conditions": [item.model_dump(mode="json", by_alias=True) for item in conditions]}


def read_conditions(status: Manifest) -> list[Condition]:
    """Conditions of a status that may be as malformed as the rest of its object."""
    try:
        return CONDITIONS.validate_python(status.get("conditions", []))
    except ValidationError:
        return []


def describe_state(conditions: Sequence[Condition]) -> str:
    """What another object may quote: the reason, and where somebody must act the sentence too."""
    ready, stalled = find_condition(conditions, "Ready"), find_condition(conditions, "Stalled")
    if ready is None:
        return "it was not looked at yet"
    return f"{ready.reason}: {ready.message}" if stalled and stalled.status == "True" else str(ready.reason)


def build_events(
    about: ObjectKey, verdict: Verdict, previous: Sequence[Condition], expected: Collection[Reason] = ()
) -> tuple[EventRecord, ...]:
    """One Event when the reason changed, with the sentence of the condition.

    On its way up an object passes the ``expected`` reasons: the conditions alone tell them. They are news where they
    end a problem, or where the object was ready before.
    """
    before = find_condition(previous, "Ready")
    if before is not None and before.reason == verdict.reason and _same(before.message, verdict):
        return ()
    stalled = find_condition(previous, "Stalled")
    troubled = stalled is not None and stalled.status == "True"
    was_ready = before is not None and before.status == "True"
    if verdict.reason in expected and verdict.state != "stalled" and not troubled and not was_ready:
        return ()
    kind = "Warning" if verdict.state == "stalled" or verdict.reason in WORRYING else "Normal"
    return (EventRecord(about, kind, verdict.reason, verdict.message),)


def _same(message: str, verdict: Verdict) -> bool:
    # A working object's sentence follows its progress; only what fails or is replaced is news by its wording.
    told = verdict.state == "stalled" or verdict.reason == Reason.ROLLING_OUT
    return not told or message == verdict.message
