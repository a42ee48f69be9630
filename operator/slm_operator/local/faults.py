"""Failed Jobs that another try may mend: forgotten when somebody asks anew, so that nobody waits for the back-off."""

from collections.abc import Mapping
from typing import Any

from slm_operator.core.manifests.metadata import LABEL_KIND, LABEL_NAME
from slm_operator.core.plan import ObjectKey, key_of
from slm_operator.ports import Cluster

BAD_INPUT = "PodFailurePolicy"
"""Why a Job failed whose step refused its input: another try would end alike."""


async def forget_faults(cluster: Cluster, owner: ObjectKey | None = None) -> int:
    """Delete the Jobs (of one owner, or all) that failed by a fault; returns how many. The planners start them anew."""
    labels = {LABEL_KIND: owner.kind, LABEL_NAME: owner.name} if owner else {}
    failed = [
        job for job in await cluster.list("Job", owner.namespace if owner else "", labels) if failed_by_fault(job)
    ]
    for job in failed:
        await cluster.delete(key_of(job))
    return len(failed)


def failed_by_fault(job: Mapping[str, Any]) -> bool:
    """Whether the Job failed for a reason that may pass: network, disk, a missing token or setting."""
    return any(reason != BAD_INPUT for reason in _failures(job))


def was_refused(job: Mapping[str, Any]) -> bool:
    """Whether the Job failed because its step refused its input."""
    return BAD_INPUT in _failures(job)


def _failures(job: Mapping[str, Any]) -> list[str]:
    conditions = (job.get("status") or {}).get("conditions", [])
    return [item.get("reason", "") for item in conditions if item["type"] == "Failed" and item["status"] == "True"]
