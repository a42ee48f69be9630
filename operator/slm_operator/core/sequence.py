"""Steps one after the other: the part that every planner with Jobs shares."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from slm_contract.reasons import Reason
from slm_contract.results import AnyResult
from slm_contract.specs import AnySpec
from slm_operator.api.meta import ResourceRequirements
from slm_operator.api.registry import AnyResource
from slm_operator.core.conditions import Verdict
from slm_operator.core.manifests.job import build_job, build_job_name
from slm_operator.core.manifests.metadata import is_controlled_by
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest, ObjectKey, key_of
from slm_operator.core.steps import RETRY_DELAY_SECONDS, Children, StepView, describe_progress, view_step

Result = TypeVar("Result", bound=AnyResult)

STEP_REASONS = {
    "resolve": Reason.RESOLVING,
    "acquire": Reason.ACQUIRING,
    "convert": Reason.CONVERTING,
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
    resources: ResourceRequirements = field(default_factory=ResourceRequirements)
    backoff_limit: int = 3
    suspended: bool = False
    apply: list[Manifest] = field(default_factory=list)
    delete: list[ObjectKey] = field(default_factory=list)
    requeue_after_seconds: float | None = None
    step_seconds: dict[str, float] = field(default_factory=dict)
    progress: str = ""
    _asked: set[str] = field(default_factory=set)

    def require(self, step: AnySpec, label: str, result: type[Result]) -> Result:
        """The step's result; raises Blocked after starting it, while it runs, or when it failed."""
        name = build_job_name(self.owner, step, label)
        self._asked.add(name)
        view = view_step(name, self.children)
        if view.state == "succeeded":
            if not isinstance(view.result, result):
                message = f"The step {name} answered {type(view.result).__name__}, not {result.__name__}."
                raise Blocked(Verdict("stalled", Reason.INTERNAL_ERROR, message))
            self.step_seconds[label] = view.seconds
            return view.result
        if view.state == "failed":
            raise Blocked(self._failure(name, view))
        if view.state == "absent":
            self._start(step, label)
        reason = STEP_REASONS[step.step]
        self.progress = f"{label}: {describe_progress(view.progress)}"
        message = f"{self.progress}; last attempt: {view.error.message}" if view.error else self.progress
        raise Blocked(Verdict("progressing", reason, message))

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

    def _start(self, step: AnySpec, label: str) -> None:
        if self.suspended:
            message = f"Suspended before {label}: set spec.suspend to false to go on."
            raise Blocked(Verdict("idle", Reason.SUSPENDED, message))
        job = build_job(self.owner, step, label, self.placement, self.resources, self.backoff_limit)
        self.apply.append(job)

    def _failure(self, name: str, view: StepView) -> Verdict:
        error = view.error
        reason = error.reason if error else Reason.STEP_FAILED
        message = error.message if error else f"The step {name} failed."
        if not view.final and view.finished_at is not None:
            waited = (self.now - view.finished_at).total_seconds()
            if waited >= RETRY_DELAY_SECONDS:
                self.delete.append(ObjectKey("Job", self.owner.metadata.namespace, name))
            self.requeue_after_seconds = max(1.0, RETRY_DELAY_SECONDS - waited)
        return Verdict("stalled", reason, message)
