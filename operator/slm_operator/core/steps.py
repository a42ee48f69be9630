"""Reading a step back: what its Job and Pods say happened."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from slm_contract.reasons import Reason
from slm_contract.results import AnyResult, Outcome, Progress, StepError
from slm_operator.core.plan import Manifest
from slm_operator.core.quantity import format_bytes

FINISHED_TYPES = {"Complete": "succeeded", "Failed": "failed"}
RETRY_DELAY_SECONDS = 300.0
"""A step that used up its back-off limit on faults is tried anew after this: long enough not to hammer a hub."""


@dataclass(frozen=True)
class StepView:
    """One step as observed."""

    state: Literal["absent", "running", "succeeded", "failed"]
    result: AnyResult | None = None
    error: StepError | None = None
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    progress: Progress | None = None
    finished_at: datetime | None = None
    final: bool = False
    """True when trying again cannot help."""


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
        progress = next((shown for pod in reversed(pods) if (shown := _progress(pod)) is not None), None)
        return StepView("running", progress=progress, error=outcome.error if outcome else None)
    state, reason, message, at = finished
    if state == "succeeded" and outcome is not None and outcome.result is not None:
        return StepView("succeeded", outcome.result, None, outcome.seconds, outcome.peak_memory_bytes, None, at)
    if state == "succeeded":
        error = StepError(reason=Reason.INTERNAL_ERROR, message=f"The step {name} ended well but left no result.")
        return StepView("failed", error=error, finished_at=at)
    told = outcome.error if outcome is not None else None
    fallback = StepError(reason=Reason.STEP_FAILED, message=f"The step {name} failed: {message or reason}.")
    error = told or _memory_error(name, pods) or fallback
    return StepView("failed", error=error, finished_at=at, final=reason == "PodFailurePolicy")


def _memory_error(name: str, pods: Iterable[Manifest]) -> StepError | None:
    """What to say of a step that was killed for its memory, and so could say nothing itself."""
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


def parse_time(text: str) -> datetime | None:
    """An RFC 3339 time, or None."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def _outcome(pod: Manifest) -> Outcome | None:
    for status in pod.get("status", {}).get("containerStatuses", []):
        message = status.get("state", {}).get("terminated", {}).get("message", "")
        try:
            return Outcome.model_validate_json(message)
        except ValidationError:
            continue
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
