"""Jobs of the local backend: one attempt at a time, each a Pod, until one succeeds or the limits say stop."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from slm_operator.adapters.pod_status import is_final, parse_stamp, stamp, termination_of
from slm_operator.ports import Cluster, Manifest, ObjectKey

MAX_BACKOFF_SECONDS = 360.0
"""Longest wait between two attempts, as in Kubernetes."""
DEFAULT_BACKOFF_LIMIT = 3


class JobRunner:
    """Reconciles Job objects into Pods and job status."""

    def __init__(self, cluster: Cluster, backoff_base_seconds: float) -> None:
        self._cluster = cluster
        self._base_seconds = backoff_base_seconds

    async def reconcile(self, job: Manifest, pods: Sequence[Manifest]) -> float | None:
        """One step towards the spec, with the pods the job owns; returns seconds until it must be looked at again."""
        meta, spec, status = job["metadata"], job["spec"], job.get("status", {})
        key = ObjectKey("Job", meta["namespace"], meta["name"])
        if finished := _finished_at(status):
            return await self._expire(key, spec, finished)
        active = [pod for pod in pods if not is_final(pod)]
        wait: float | None = None
        if (verdict := _verdict(job, pods)) or spec.get("suspend"):
            await self._delete(active)
            active = []
        elif not active:
            wait = self._backoff(pods)
            if wait <= 0:
                active = [await self._cluster.apply(_attempt(job, pods))]
                wait = None
        await self._cluster.update_status(key, _status(job, pods, active, verdict))
        return _soonest(wait, _deadline_left(job))

    async def _expire(self, key: ObjectKey, spec: dict[str, Any], finished: datetime) -> float | None:
        ttl = spec.get("ttlSecondsAfterFinished")
        if ttl is None:
            return None
        left = (finished + timedelta(seconds=ttl) - datetime.now(UTC)).total_seconds()
        if left <= 0:
            await self._cluster.delete(key)
        return max(left, 0.0) or None

    async def _delete(self, pods: Sequence[Manifest]) -> None:
        for pod in pods:
            await self._cluster.delete(ObjectKey("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _backoff(self, pods: Sequence[Manifest]) -> float:
        """Seconds until the next attempt may start: 1, 2, 4 … times the base after each failure."""
        ends = [parse_stamp(state["finishedAt"]) for pod in pods if (state := termination_of(pod))]
        if not ends:
            return 0.0
        delay = min(self._base_seconds * 2.0 ** (len(ends) - 1), MAX_BACKOFF_SECONDS)
        return (max(ends) + timedelta(seconds=delay) - datetime.now(UTC)).total_seconds()


def _attempt(job: Manifest, pods: Sequence[Manifest]) -> Manifest:
    """The Pod of the next attempt; numbers start at 1 and are not used twice while their pods exist."""
    meta, template = job["metadata"], job["spec"]["template"]
    number = 1 + max((int(pod["metadata"]["name"].rpartition("-")[2]) for pod in pods), default=0)
    labels = template.get("metadata", {}).get("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": meta["namespace"],
            "name": f"{meta['name']}-{number}",
            "labels": {**labels, "job-name": meta["name"]},
            "annotations": template.get("metadata", {}).get("annotations", {}),
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {**template["spec"], "restartPolicy": "Never"},
    }


def owner_reference(owner: Manifest) -> dict[str, Any]:
    """The controlling owner reference for a child."""
    meta = owner["metadata"]
    fields = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**fields, "controller": True, "blockOwnerDeletion": True}


def _verdict(job: Manifest, pods: Sequence[Manifest]) -> tuple[str, str, str] | None:
    """Condition type, reason and message once the job is decided."""
    spec = job["spec"]
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    if any(pod.get("status", {}).get("phase") == "Succeeded" for pod in pods):
        return "Complete", "CompletionsReached", "The job succeeded."
    for pod in failed:
        if message := _policy_violation(spec, pod):
            return "Failed", "PodFailurePolicy", message
    if len(failed) > spec.get("backoffLimit", DEFAULT_BACKOFF_LIMIT):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit."
    left = _deadline_left(job)
    if left is not None and left <= 0:
        limit = spec["activeDeadlineSeconds"]
        return "Failed", "DeadlineExceeded", f"Job was active longer than its deadline of {limit} s."
    return None


def _policy_violation(spec: dict[str, Any], pod: Manifest) -> str:
    code = (termination_of(pod) or {}).get("exitCode")
    for index, rule in enumerate(spec.get("podFailurePolicy", {}).get("rules", [])):
        on_codes = rule.get("onExitCodes")
        if rule.get("action") != "FailJob" or not on_codes:
            continue
        if (code in on_codes["values"]) == (on_codes.get("operator", "In") == "In"):
            name = pod["metadata"]["name"]
            return f"Pod {name} failed with exit code {code}, which matches FailJob rule {index}."
    return ""


def _deadline_left(job: Manifest) -> float | None:
    limit, begun = job["spec"].get("activeDeadlineSeconds"), job.get("status", {}).get("startTime")
    if limit is None or begun is None:
        return None
    return (parse_stamp(begun) + timedelta(seconds=limit) - datetime.now(UTC)).total_seconds()


def _soonest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _finished_at(status: Manifest) -> datetime | None:
    for each in status.get("conditions", []):
        if each["type"] in ("Complete", "Failed") and each["status"] == "True":
            return parse_stamp(each["lastTransitionTime"])
    return None


def _status(
    job: Manifest, pods: Sequence[Manifest], active: list[Manifest], verdict: tuple[str, str, str] | None
) -> Manifest:
    old, suspended = job.get("status", {}), bool(job["spec"].get("suspend"))
    phases = [pod.get("status", {}).get("phase") for pod in pods]
    status: Manifest = {
        "active": len(active),
        "succeeded": phases.count("Succeeded"),
        "failed": phases.count("Failed"),
    }
    if not suspended or verdict:
        status["startTime"] = old.get("startTime") or stamp()
    if verdict is None:
        if suspended:
            status["conditions"] = [_condition(old, "Suspended", "JobSuspended", "Job suspended.")]
        return status
    kind, reason, message = verdict
    status["conditions"] = [_condition(old, kind, reason, message)]
    if kind == "Complete":
        status["completionTime"] = status["conditions"][0]["lastTransitionTime"]
    return status


def _condition(old: Manifest, kind: str, reason: str, message: str) -> dict[str, Any]:
    known = next((each for each in old.get("conditions", []) if each["type"] == kind), None)
    moved = known["lastTransitionTime"] if known else stamp()
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": moved}
