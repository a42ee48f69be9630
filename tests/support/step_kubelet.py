"""A node that runs nothing: Pods of steps succeed with a plausible result, Pods of engines become ready.

Stands in for kubelets where a test is about the operator and the API server, and twenty QuantJobs would otherwise take
an hour of two CPUs. It speaks to the API server as a kubelet does: through the status of Pods.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime

from slm_contract.results import Outcome
from slm_operator.adapters.kube_client import MERGE, KubeClient
from slm_operator.core.manifests.metadata import LABEL_STEP
from slm_operator.errors import SlmError
from slm_operator.ports import Manifest
from tests.support.planning import succeed

WAITING = {"labelSelector": "app.kubernetes.io/managed-by=slm-operator", "fieldSelector": "status.phase=Pending"}
"""Of hundreds of Pods, the few that have not run yet: who lists all of them every moment is all the load there is."""


class StepKubelet:
    """Plays all Pods of the operator, each after a random moment."""

    def __init__(
        self,
        client: KubeClient,
        answer: Callable[[str], Outcome] = succeed,
        longest_seconds: float = 0.3,
        seed: int = 1,
    ) -> None:
        self._client = client
        self._answer = answer
        self._longest = longest_seconds
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._due: dict[str, float] = {}
        self.ran: dict[str, int] = {}
        """How often each Job's step was run, by namespace/name."""

    async def run(self) -> None:
        """Play for ever; an API server that is away is waited for."""
        while True:
            try:
                found = await self._client.read("/api/v1/pods", WAITING)
                for pod in found["items"] or ():
                    await self._play(pod)
            except SlmError:
                await asyncio.sleep(0.5)
            await asyncio.sleep(0.05)

    async def _play(self, pod: Manifest) -> None:
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            return
        now = asyncio.get_running_loop().time()
        due = self._due.setdefault(meta["uid"], now + self._random.uniform(0, self._longest))
        if now < due:
            return
        label = meta["labels"][LABEL_STEP]
        if label == "serve":
            await self._tell(pod, _serving())
            return
        outcome = self._answer(label)
        await self._tell(pod, _ended(outcome))
        name = f"{meta['namespace']}/{meta['labels']['job-name']}"
        self.ran[name] = self.ran.get(name, 0) + 1

    async def _tell(self, pod: Manifest, status: Manifest) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        await self._client.write("PATCH", path, {"status": status}, content=MERGE)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _container(name: str, state: Manifest, *, ready: bool) -> Manifest:
    return {"name": name, "image": "none", "imageID": "", "restartCount": 0, "ready": ready, "state": state}


def _serving() -> Manifest:
    state = {"running": {"startedAt": _now()}}
    conditions = [
        {"type": name, "status": "True", "lastTransitionTime": _now()} for name in ("Ready", "ContainersReady")
    ]
    return {
        "phase": "Running",
        "startTime": _now(),
        "conditions": conditions,
        "containerStatuses": [_container("engine", state, ready=True)],
    }


def _ended(outcome: Outcome) -> Manifest:
    good = outcome.result is not None
    ended = {
        "exitCode": 0 if good else 65,
        "message": outcome.encode().decode(),
        "startedAt": _now(),
        "finishedAt": _now(),
    }
    return {
        "phase": "Succeeded" if good else "Failed",
        "startTime": _now(),
        "containerStatuses": [_container("step", {"terminated": ended}, ready=False)],
    }
