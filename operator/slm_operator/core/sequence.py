"""Steps one after the other: the part that every planner with Jobs shares."""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from slm_contract.reasons import Reason
from slm_contract.results import AnyResult, Outcome
from slm_contract.specs import AnySpec
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.meta import Condition, ResourceRequirements, Scheduling
from slm_operator.api.registry import AnyResource
from slm_operator.core.conclusion import is_same_store
from slm_operator.core.conditions import Verdict, find_condition
from slm_operator.core.manifests.job import JobShape, build_job, build_job_name
from slm_operator.core.manifests.metadata import is_controlled_by
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest, ObjectKey, key_of
from slm_operator.core.resources import SMALL, Memory
from slm_operator.core.steps import (
    RETRY_DELAY_SECONDS,
    Children,
    StepView,
    describe_progress,
    read_outcome,
    view_outcome,
    view_step,
)
from slm_operator.core.store import StoreView, check_store

Result = TypeVar("Result", bound=AnyResult)

STEP_REASONS = {
    "resolve": Reason.RESOLVING,
    "acquire": Reason.ACQUIRING,
    "convert": Reason.CONVERTING,
    "adapt": Reason.CONVERTING,
    "snapshot": Reason.LINKING,
    "vocabulary": Reason.COMPARING,
    "projector": Reason.COMPARING,
    "quantize": Reason.QUANTIZING,
    "evaluate": Reason.EVALUATING,
    "benchmark": Reason.BENCHMARKING,
    "report": Reason.REPORTING,
}


class Blocked(Exception):
    """The next step has no result yet; ``verdict`` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


@dataclass
class Sequence:
    """Walks through steps: each is read back, started, or found to block."""

    owner: AnyResource
    children: Children
    placement: Placement
    now: datetime
    store: StoreView | None = None
    """The store on a cluster; None on the local backend, whose store is always there."""
    resources: ResourceRequirements = field(default_factory=ResourceRequirements)
    scheduling: Scheduling = field(default_factory=Scheduling)
    backoff_limit: int = 3
    suspended: bool = False
    create: list[Manifest] = field(default_factory=list)
    delete: list[ObjectKey] = field(default_factory=list)
    hold: bool | None = None
    requeue_after_seconds: float | None = None
    step_seconds: dict[str, float] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    """What they answer now, to be remembered."""
    progress: str = ""
    _asked: set[str] = field(default_factory=set)

    @property
    def store_uid(self) -> str:
        """Identity of the store that steps write to."""
        return self.store.uid if self.store else ""

    def require(self, step: AnySpec, label: str, result: type[Result], memory: Memory = SMALL) -> Result:
        """The step's result; raises Blocked after starting it, while it runs, or when it failed."""
        name = build_job_name(self.owner, step, label)
        self._asked.add(name)
        view = self._view(name)
        if view.state == "succeeded":
            if not isinstance(view.result, result):
                message = f"The step {name} answered {type(view.result).__name__}, not {result.__name__}."
                raise Blocked(Verdict("stalled", Reason.INTERNAL_ERROR, message))
            self.step_seconds[label] = view.seconds
            kept = Outcome(result=view.result, seconds=view.seconds, peak_memory_bytes=view.peak_memory_bytes)
            self.answers[name] = kept.encode().decode().strip()
            return view.result
        if view.state == "failed":
            raise Blocked(self._failure(name, view))
        if view.state == "absent":
            self._start(name, step, label, memory)
        if view.state == "lost":
            # The store still has what it made, so that doing it again takes seconds.
            self.delete.append(ObjectKey("Job", self.owner.metadata.namespace, name))
        raise Blocked(self._underway(step, label, view))

    def keep(self, step: AnySpec, label: str) -> None:
        """Leave the step's Job where it is, if it is still there: its result is known already."""
        self._asked.add(build_job_name(self.owner, step, label))

    def _view(self, name: str) -> StepView:
        """The step as its Job tells it, or as it answered when it was looked at before."""
        if self.store is not None:
            if self.store.claim is None and (problem := check_store(self.store)):
                raise Blocked(problem)
            job = self.children.jobs.get(name)
            if job is not None and self.store.is_younger_than(job):
                return StepView("lost")
        view = view_step(name, self.children)
        if view.state == "succeeded" or not is_same_store(self.owner.status, self.store):
            return view
        kept = read_outcome(_remembered(self.owner).get(name, ""))
        return view_outcome(kept) if kept is not None else view

    def drop_superseded(self, *, finished: bool) -> None:
        """Delete Jobs of an earlier spec: those under way when a step blocks, all when the walk is ``finished``.

        Steps run one after the other, so where one blocks no other may be under way. Without any step asked for, a
        reference is missing, and nothing is known.
        """
        for name, job in self.children.jobs.items():
            if not (self._asked or finished) or name in self._asked or not is_controlled_by(job, self.owner):
                continue
            if finished or view_step(name, self.children).state == "running":
                self.delete.append(key_of(job))

    def expire(self, concluded_at: datetime | None, ttl_seconds: int | None) -> None:
        """Delete all Jobs of finished work once it is that old; the status holds what they found out."""
        mine = [key_of(job) for job in self.children.jobs.values() if is_controlled_by(job, self.owner)]
        if ttl_seconds is None or concluded_at is None or not mine:
            return
        left = ttl_seconds - (self.now - concluded_at).total_seconds()
        if left <= 0:
            self.delete += mine
        else:
            self.requeue_after_seconds = left

    def _start(self, name: str, step: AnySpec, label: str, memory: Memory) -> None:
        if self.suspended:
            message = f"Suspended before {label}: set spec.suspend to false to go on."
            raise Blocked(Verdict("idle", Reason.SUSPENDED, message))
        if self.store is not None:
            problem = check_store(self.store)
            if problem is not None:
                raise Blocked(problem)
            if getattr(step, "store", "") and self.owner.kind != "InferenceService":
                self.hold = True
        shape = JobShape(self.resources, memory, self.scheduling, self.backoff_limit)
        self.create.append(build_job(self.owner, name, step, label, self.placement, shape))

    def _underway(self, step: AnySpec, label: str, view: StepView) -> Verdict:
        self.progress = f"{label}: {describe_progress(view.progress)}"
        if view.waiting:
            return Verdict("progressing", Reason.POD_WAITING, f"{label} cannot start: {view.waiting}.")
        message = f"{self.progress}; last attempt: {view.error.message}" if view.error else self.progress
        return Verdict("progressing", STEP_REASONS[step.step], message)

    def _failure(self, name: str, view: StepView) -> Verdict:
        error = view.error
        reason = error.reason if error else Reason.STEP_FAILED
        message = error.message if error else f"The step {name} failed."
        if not view.final and view.finished_at is not None:
            waited = (self.now - view.finished_at).total_seconds()
            if waited >= RETRY_DELAY_SECONDS:
                self.delete.append(ObjectKey("Job", self.owner.metadata.namespace, name))
            self.requeue_after_seconds = max(1.0, RETRY_DELAY_SECONDS - waited)
        if not view.told and (before := _stalled_before(self.owner)):
            return before  # Its Pod told more while it was there.
        return Verdict("stalled", reason, message)


def _remembered(owner: AnyResource) -> Mapping[str, str]:
    return {} if isinstance(owner, InferenceService) else owner.status.results


def _stalled_before(owner: AnyResource) -> Verdict | None:
    conditions: Many[Condition] = owner.status.conditions
    stalled = find_condition(conditions, "Stalled")
    if stalled is None or stalled.status != "True" or owner.status.observed_generation != owner.metadata.generation:
        return None
    # A reason that only a newer version knows is looked into anew.
    reason = next((each for each in Reason if each == stalled.reason), None)
    return Verdict("stalled", reason, stalled.message) if reason else None
