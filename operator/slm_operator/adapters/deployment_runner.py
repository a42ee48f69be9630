"""Deployments of the local backend: replicas as Pods, replaced one by one when the template changes."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from slm_operator.adapters.job_runner import owner_reference
from slm_operator.adapters.pod_status import condition, is_final, parse_stamp, stamp
from slm_operator.core.pods import is_ready
from slm_operator.ports import Cluster, Manifest, ObjectKey

HASH_LABEL = "pod-template-hash"
DEFAULT_PROGRESS_DEADLINE_SECONDS = 600


class DeploymentRunner:
    """Reconciles Deployment objects into Pods and deployment status (maxSurge 1, maxUnavailable 0)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def reconcile(self, deployment: Manifest, pods: Sequence[Manifest]) -> float | None:
        """One step towards the spec, with the pods it owns; returns seconds until it must be looked at again."""
        digest = template_hash(deployment)
        create, doomed = plan_rollout(deployment["spec"], digest, pods)
        for pod in doomed:
            await self._cluster.delete(ObjectKey("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]))
        made = [await self._cluster.apply(_build_pod(deployment, digest)) for _ in range(create)]
        gone = {pod["metadata"]["uid"] for pod in doomed}
        left = [pod for pod in pods if pod["metadata"]["uid"] not in gone]
        return await self._report(deployment, digest, [*left, *made])

    async def report_stopped(self, deployment: Manifest) -> None:
        """Write that nothing of it runs, as the kubelet itself stops."""
        await self._report(deployment, template_hash(deployment), [])

    async def _report(self, deployment: Manifest, digest: str, pods: Sequence[Manifest]) -> float | None:
        meta = deployment["metadata"]
        status, wait = build_status(deployment, digest, pods)
        await self._cluster.update_status(ObjectKey("Deployment", meta["namespace"], meta["name"]), status)
        return wait


def template_hash(deployment: Manifest) -> str:
    """Label value that tells pods of one template from those of another."""
    text = json.dumps(deployment["spec"]["template"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plan_rollout(spec: dict[str, Any], digest: str, pods: Sequence[Manifest]) -> tuple[int, list[Manifest]]:
    """How many pods to create, and which to delete."""
    wanted = spec.get("replicas", 1)
    dead = [pod for pod in pods if is_final(pod)]
    alive = sorted((pod for pod in pods if not is_final(pod)), key=is_ready)
    new = [pod for pod in alive if pod["metadata"]["labels"].get(HASH_LABEL) == digest]
    old = [pod for pod in alive if pod["metadata"]["labels"].get(HASH_LABEL) != digest]
    doomed = [*dead, *new[: max(0, len(new) - wanted)]]
    kept = min(len(new), wanted)
    if spec.get("strategy", {}).get("type") == "Recreate" and old:
        return 0, [*doomed, *old]
    # The unready come first: they serve nobody. A ready one may go when enough others are ready.
    spare = sum(map(is_ready, alive)) - wanted
    for pod in old:
        if not is_ready(pod) and kept:
            doomed.append(pod)
        elif spare > 0 or wanted == 0:
            doomed.append(pod)
            spare -= 1
    surge = 1 if old else 0
    room = wanted + surge - kept - sum(pod not in doomed for pod in old)
    return max(0, min(wanted - kept, room)), doomed


def build_status(deployment: Manifest, digest: str, pods: Sequence[Manifest]) -> tuple[Manifest, float | None]:
    """The status, and seconds until the progress deadline while a rollout is under way."""
    old, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    ready = sum(map(is_ready, pods))
    updated = sum(pod["metadata"]["labels"].get(HASH_LABEL) == digest for pod in pods)
    counts = {"replicas": len(pods), "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": ready}
    generation = deployment["metadata"]["generation"]
    moved = any(old.get(name) != value for name, value in counts.items()) or old.get("observedGeneration") != generation
    complete = len(pods) == updated == ready == wanted
    progressing, wait = _progressing(deployment, complete=complete, moved=moved)
    available = condition(
        old,
        "Available",
        met=ready >= wanted,
        reason="MinimumReplicasAvailable" if ready >= wanted else "MinimumReplicasUnavailable",
        message=f"{ready} of {wanted} replicas are ready.",
    )
    return {**counts, "observedGeneration": generation, "conditions": [available, progressing]}, wait


def _progressing(deployment: Manifest, *, complete: bool, moved: bool) -> tuple[dict[str, Any], float | None]:
    old = deployment.get("status", {})
    conditions: list[dict[str, Any]] = old.get("conditions", [])
    known = next((each for each in conditions if each["type"] == "Progressing"), {})
    updated = stamp() if moved or not known else known["lastUpdateTime"]
    limit = deployment["spec"].get("progressDeadlineSeconds", DEFAULT_PROGRESS_DEADLINE_SECONDS)
    left = (parse_stamp(updated) + timedelta(seconds=limit) - datetime.now(UTC)).total_seconds()
    if complete:
        result = condition(old, "Progressing", met=True, reason="NewReplicaSetAvailable")
    elif left > 0:
        result = condition(old, "Progressing", met=True, reason="ReplicaSetUpdated")
    else:
        message = f"Nothing moved for {limit} s; the pods say why."
        result = condition(old, "Progressing", met=False, reason="ProgressDeadlineExceeded", message=message)
    return {**result, "lastUpdateTime": updated}, left if left > 0 and not complete else None


def _build_pod(deployment: Manifest, digest: str) -> Manifest:
    meta, template = deployment["metadata"], deployment["spec"]["template"]
    labels = template.get("metadata", {}).get("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": meta["namespace"],
            "name": f"{meta['name']}-{digest}-{secrets.token_hex(3)}",
            "labels": {**labels, HASH_LABEL: digest},
            "annotations": template.get("metadata", {}).get("annotations", {}),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {**template["spec"], "restartPolicy": "Always"},
    }
