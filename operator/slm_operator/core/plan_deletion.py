"""plan_deletion: end what the object runs, remove its bytes from the store, let it go. It never waits for ever."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_operator.core.conditions import Verdict, parse_time, restate
from slm_operator.core.manifests.job import JobShape, build_job
from slm_operator.core.manifests.metadata import short_digest
from slm_operator.core.placement import Placement
from slm_operator.core.plan import EventRecord, Manifest, Plan, key_of
from slm_operator.core.pods import is_live
from slm_operator.core.roots import has_ended
from slm_operator.core.steps import Children, view_step
from slm_operator.core.store import ClaimOwner, StoreView

GIVE_UP_SECONDS = 600
"""An object that is being deleted goes after this, whatever becomes of its bytes."""
POLL_SECONDS = 5.0
"""How often it is looked whether the steps of others have ended: nothing else tells this object."""
COLLECT_LABEL = "collect"
COLLECT_TTL_SECONDS = 3600
"""How long a finished collection, which nobody reads any more, can be looked at."""
MAX_SPEC_BYTES = 120_000
"""Linux takes 128 KiB for one environment variable."""


@dataclass(frozen=True)
class DeletionSnapshot:
    """Everything the planner looks at."""

    manifest: Manifest
    """The object as it is: it must go even when it cannot be parsed any more."""
    children: Children
    """Its Jobs and their Pods."""
    busy: Sequence[str]
    """Names of the steps of other objects that still run in the namespace."""
    roots: Sequence[str]
    """Digests that the other objects of the namespace refer to."""
    store: StoreView
    placement: Placement


def plan_deletion(snapshot: DeletionSnapshot, now: datetime) -> Plan:
    """What to do for an object that was deleted and carries our finalizer."""
    claim = snapshot.store.claim
    if claim is None:
        return _release(snapshot, f"there is no volume claim {snapshot.store.name}")
    if claim["metadata"].get("deletionTimestamp"):
        return Plan(hold=False)  # Everything goes.
    if (now - _deleted_at(snapshot)).total_seconds() >= GIVE_UP_SECONDS:
        return _release(snapshot, f"it took longer than {GIVE_UP_SECONDS} s")
    running = [job for job in snapshot.children.jobs.values() if not has_ended(job)]
    living = [pod for pods in snapshot.children.pods.values() for pod in pods if is_live(pod)]
    if running or living:
        return _wait(snapshot, now, "its steps are being ended", delete=running)
    return _collect(snapshot, claim, now)


def _collect(snapshot: DeletionSnapshot, claim: Manifest, now: datetime) -> Plan:
    """Have the store cleaned; one collection serves all that were deleted before it began."""
    name, jobs = _job_name(snapshot), snapshot.store.collections.jobs
    usable = [each for each, job in jobs.items() if each == name or _is_younger(job, snapshot)]
    views = [view_step(each, snapshot.store.collections) for each in usable]
    if any(view.state in ("succeeded", "lost") for view in views):
        return Plan(hold=False)
    failed = next((view for view in views if view.state == "failed"), None)
    if failed is not None:
        why = failed.error.message if failed.error else "it left no message"
        return _release(snapshot, f"the collection failed: {why.rstrip('.')}")
    if views:
        return _wait(snapshot, now, "the store is being cleaned")
    if snapshot.busy or any(not has_ended(job) for job in jobs.values()):
        return _wait(snapshot, now, f"steps of others write to the store: {', '.join(snapshot.busy)}")
    step = specs.CollectSpec(roots=list(snapshot.roots), store=snapshot.placement.store, kept_since=now.timestamp())
    if len(step.model_dump_json(by_alias=True)) > MAX_SPEC_BYTES:
        return _release(
            snapshot, f"the namespace refers to {len(snapshot.roots)} digests, more than a step can be told"
        )
    return _wait(snapshot, now, "the store is being cleaned", create=[_build_collection(snapshot, claim, name, step)])


def _build_collection(snapshot: DeletionSnapshot, claim: Manifest, name: str, step: specs.CollectSpec) -> Manifest:
    """It belongs to the claim: a foreground deletion would end a child of the deleted object again and again."""
    job = build_job(ClaimOwner.of(claim), name, step, COLLECT_LABEL, snapshot.placement, JobShape())
    job["spec"] |= {"activeDeadlineSeconds": GIVE_UP_SECONDS, "ttlSecondsAfterFinished": COLLECT_TTL_SECONDS}
    return job


def _job_name(snapshot: DeletionSnapshot) -> str:
    return f"slm-{COLLECT_LABEL}-{short_digest(snapshot.manifest['metadata']['uid'])}"


def _is_younger(job: Manifest, snapshot: DeletionSnapshot) -> bool:
    made = parse_time(job["metadata"].get("creationTimestamp", ""))
    return made is not None and made > _deleted_at(snapshot)


def _deleted_at(snapshot: DeletionSnapshot) -> datetime:
    return datetime.fromisoformat(snapshot.manifest["metadata"]["deletionTimestamp"])


def _wait(
    snapshot: DeletionSnapshot,
    now: datetime,
    what: str,
    *,
    delete: Sequence[Manifest] = (),
    create: Sequence[Manifest] = (),
) -> Plan:
    verdict = Verdict("progressing", Reason.DELETING, f"Deleted; {what}.")
    return Plan(
        status=restate(snapshot.manifest, verdict, now),
        delete=tuple(key_of(job) for job in delete),
        create=tuple(create),
        requeue_after_seconds=POLL_SECONDS,
    )


def _release(snapshot: DeletionSnapshot, why: str) -> Plan:
    """Let the object go, and say that the store was not cleaned."""
    message = (
        f"Bytes that only this object used may remain in the store, because {why}. The next deletion removes them."
    )
    event = EventRecord(key_of(snapshot.manifest), "Warning", Reason.STORE_NOT_CLEANED, message)
    return Plan(events=(event,), hold=False)
