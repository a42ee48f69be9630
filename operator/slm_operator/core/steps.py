"""Reading a step back: what its Job and Pods say happened."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from slm_contract.reasons import Reason
from slm_contract.results import AnyResult, Outcome, Progress, StepError
from slm_operator.core.conditions import parse_time
from slm_operator.core.plan import Manifest
from slm_operator.core.pods import describe_waiting, is_live
from slm_operator.core.quantity import format_bytes

FINISHED_TYPES = {"Complete": "succeeded", "Failed": "failed"}
RETRY_DELAY_SECONDS = 300.0
"""A step that used up its back-off limit on faults is tried anew after this: long enough not to hammer a hub."""


@dataclass(frozen=True)
class StepView:
    """One step as observed."""

    state: Literal["absent", "running", "succeeded", "failed", "lost"]
    """lost: it ended, but its Pod, and the result with it, was removed by somebody."""
    result: AnyResult | None = None
    error: StepError | None = None
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    progress: Progress | None = None
    finished_at: datetime | None = None
    final: bool = False
    """True when trying again cannot help."""
    told: bool = True
    """Whether the error is the step's own; without its Pod only the Job's remains."""
    waiting: str = ""
    """Why its Pod cannot start, in words."""


@dataclass(frozen=True)
class Children:
    """Jobs by name and Pods by Job name."""

    jobs: Mapping[str, Manifest]
    pods: Mapping[str, tuple[Manifest, ...]]

    @staticmethod
    def of(jobs: Iterable[Manifest], pods: Iterable[Manifest]) -> "Children":
        """Group what was listed."""
        grouped: dict[str, list[Manifest]] = {}
        for pod in pods:
            grouped.setdefault(pod["metadata"].get("labels", {}).get("job-name", ""), []).append(pod)
        ordered = {name: tuple(sorted(group, key=_order)) for name, group in grouped.items()}
        return Children({job["metadata"]["name"]: job for job in jobs}, ordered)

    def are_behind(self, answered: Container[str] = ()) -> bool:
        """Whether a Job has ended and its Pod's end is not known, which may come on another watch, later.

        Jobs that are known to have ``answered`` need no Pod any more.
        """
        return any(
            _finished(job) is not None and all(is_live(pod) for pod in self.pods.get(name, ()))
            for name, job in self.jobs.items()
            if name not in answered
        )


def _order(pod: Manifest) -> tuple[str, str]:
    return pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]


def view_step(name: str, children: Children) -> StepView:
    """What the Job of that name and its newest Pod say."""
    job = children.jobs.get(name)
    if job is None:
        return StepView("absent")
    pods = children.pods.get(name, ())
    finished = _finished(job)
    outcome = next((found for pod in reversed(pods) if (found := _outcome(pod)) is not None), None)
    if finished is None:
        return _view_running(pods, outcome)
    state, reason, message, at = finished
    if state == "succeeded" and outcome is not None and outcome.result is not None:
        return view_outcome(outcome, at)
    if state == "succeeded":
        error = StepError(reason=Reason.INTERNAL_ERROR, message=f"The step {name} ended well but left no result.")
        return StepView("failed", error=error, finished_at=at) if pods else StepView("lost")
    told = outcome.error if outcome is not None else _killed(name, pods)
    fallback = StepError(reason=Reason.STEP_FAILED, message=f"The step {name} failed: {message or reason}.")
    final = reason == "PodFailurePolicy"
    return StepView("failed", error=told or fallback, finished_at=at, final=final, told=told is not None)


def view_outcome(outcome: Outcome, at: datetime | None = None) -> StepView:
    """A step that answered."""
    return StepView("succeeded", outcome.result, None, outcome.seconds, outcome.peak_memory_bytes, None, at)


def read_outcome(text: str) -> Outcome | None:
    """The outcome that the text holds, or None."""
    try:
        return Outcome.model_validate_json(text)
    except ValidationError:
        return None


def _view_running(pods: tuple[Manifest, ...], outcome: Outcome | None) -> StepView:
    progress = next((shown for pod in reversed(pods) if (shown := _progress(pod)) is not None), None)
    waiting = describe_waiting(pods[-1]) if pods and is_live(pods[-1]) else ""
    return StepView("running", progress=progress, error=outcome.error if outcome else None, waiting=waiting)


def _killed(name: str, pods: Iterable[Manifest]) -> StepError | None:
    """What to say of a step that was ended from outside, and so could say nothing itself."""
    return _memory_error(name, pods) or next((found for pod in pods if (found := _eviction(name, pod))), None)


def _eviction(name: str, pod: Manifest) -> StepError | None:
    status = pod.get("status", {})
    if status.get("reason") != "Evicted":
        return None
    message = f"The node put the step {name} out: {status.get('message', '').strip().rstrip('.')}."
    return StepError(reason=Reason.STEP_FAILED, message=message)


def _memory_error(name: str, pods: Iterable[Manifest]) -> StepError | None:
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses", []):
            ended = status.get("state", {}).get("terminated", {})
            if ended.get("reason") == "OOMKilled":
                detail = f" {ended['message']}" if ended.get("message") else " Raise its resources.limits.memory."
                message = f"The step {name} was killed for using more memory than its limit.{detail}"
                return StepError(reason=Reason.OUT_OF_MEMORY, message=message)
    return None


def _finished(job: Manifest) -> tuple[str, str, str, datetime | None] | None:
    for condition in job.get("status", {}).get("conditions", []):
        if condition.get("type") in FINISHED_TYPES and condition.get("status") == "True":
            at = parse_time(condition.get("lastTransitionTime", ""))
            state = FINISHED_TYPES[condition["type"]]
            return state, condition.get("reason", ""), condition.get("message", ""), at
    return None


def _outcome(pod: Manifest) -> Outcome | None:
    for status in pod.get("status", {}).get("containerStatuses", []):
        message = status.get("state", {}).get("terminated", {}).get("message", "")
        if (found := read_outcome(message)) is not None:
            return found
    return None


def _progress(pod: Manifest) -> Progress | None:
    try:
        return Progress.model_validate(pod.get("status", {}).get("progress"))
    except ValidationError:
        return None


def describe_progress(progress: Progress | None) -> str:
    """Progress in words: ``fetching model.safetensors: 120.0 MiB of 1.11 GiB (10%)``."""
    if progress is None:
        return "starting"
    if not progress.total:
        return progress.message
    share = f"({100 * progress.done // progress.total}%)"
    if progress.unit == "bytes":
        return f"{progress.message}: {format_bytes(progress.done)} of {format_bytes(progress.total)} {share}"
    return f"{progress.message}: {progress.done} of {progress.total} {progress.unit} {share}"
