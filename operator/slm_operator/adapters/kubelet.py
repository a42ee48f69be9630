"""What turns Jobs, Deployments and Services of the local backend into processes and ports."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slm_operator.adapters import logs
from slm_operator.adapters.deployment_runner import DeploymentRunner
from slm_operator.adapters.job_runner import JobRunner
from slm_operator.adapters.pod_runner import PodRunner
from slm_operator.adapters.pod_status import is_final
from slm_operator.adapters.pod_worker import Folders
from slm_operator.adapters.process_table import ProcessTable
from slm_operator.adapters.service_runner import ServiceRunner, wanted_port
from slm_operator.errors import ClusterUnavailable, Conflict
from slm_operator.ports import Cluster, Manifest, ObjectKey

LOG = logging.getLogger(__name__)
KINDS = frozenset({"Job", "Deployment", "Service", "Pod"})
RETRY_SECONDS = 1.0
"""Wait after an error before the object is looked at again."""
LOG_CARE_SECONDS = 5.0
"""How often logs are rotated and expired."""


@dataclass(frozen=True)
class KubeletSettings:
    """What may be tuned."""

    job_backoff_base_seconds: float = 1.0
    """Wait after a job's first failed attempt; it doubles with each. Kubernetes takes 10."""
    log_retention_seconds: float = 24 * 3600
    """How long logs stay after their pod was deleted and fell silent."""


class ProcessKubelet:
    """Runs the pods of a cluster as processes of this machine. Only one may run per state folder."""

    def __init__(
        self, cluster: Cluster, state_dir: Path, log_dir: Path, settings: KubeletSettings | None = None
    ) -> None:
        self._cluster, self._settings = cluster, settings or KubeletSettings()
        folders = Folders(state_dir.resolve(), log_dir.resolve())
        self._log_dir = folders.logs
        self._table = ProcessTable(folders.state / "processes.sqlite")
        self._services = ServiceRunner(cluster)
        self._pods = PodRunner(cluster, self._table, folders, self._services.drain)
        self._jobs = JobRunner(cluster, self._settings.job_backoff_base_seconds)
        self._deployments = DeploymentRunner(cluster)
        self.synced = asyncio.Event()
        """Set once statuses say what runs now, not what ran when an earlier kubelet ended."""
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._ending = False
        self._waits: list[float] = []

    async def run(self) -> None:
        """Reconcile until cancelled; processes survive the end of this call and are adopted by the next."""
        self._running = asyncio.create_task(self._loop())
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._running)
                return
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError
        finally:
            if not self._ending:  # Else `stop_all` does both, once the answers under way have ended.
                await self._pods.release()
                await self._services.close()

    async def stop_all(self) -> None:
        """End ``run`` and every process, gracefully. Unfinished pods are deleted; the next run makes them anew.

        No new connection is taken; answers under way may finish within the grace period of their pod.
        """
        self._ending = True
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._services.stop_listening()
        for pod in await self._cluster.list("Pod"):
            if not is_final(pod):
                await self._cluster.delete(ObjectKey("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]))
        await self._pods.end_all()
        await self._services.close()
        for deployment in await self._cluster.list("Deployment"):
            with contextlib.suppress(Conflict):
                await self._deployments.report_stopped(deployment)

    async def _loop(self) -> None:
        await self._pods.clean()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._care_for_logs())
            while True:
                self._wake.clear()
                wait = await self._sync()
                self.synced.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()

    async def _listen(self) -> None:
        """Wake the loop on changes; many changes make one round."""
        while True:
            try:
                async for key in self._cluster.changes():
                    if key.kind in KINDS:
                        self._wake.set()
            except ClusterUnavailable as error:
                LOG.warning("%s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _sync(self) -> float | None:
        """One round over everything; returns seconds until the next is due without a change."""
        self._waits = []
        try:
            pods = await self._cluster.list("Pod")
            for job in await self._cluster.list("Job"):
                await self._guard(job, self._jobs.reconcile(job, _owned(job, pods)))
            for deployment in await self._cluster.list("Deployment"):
                await self._guard(deployment, self._deployments.reconcile(deployment, _owned(deployment, pods)))
            # Services before pods: no new connection may go to a process that is about to be ended.
            await self._sync_services()
            self._pods.sync(await self._cluster.list("Pod"))
        except ClusterUnavailable as error:
            LOG.warning("%s", error)
            self._waits.append(RETRY_SECONDS)
        for failure in self._pods.failed():
            LOG.error("a pod's worker failed", exc_info=failure)
            self._waits.append(RETRY_SECONDS)
        return max(0.0, min(self._waits)) if self._waits else None

    async def _sync_services(self) -> None:
        services = await self._cluster.list("Service")
        pods = await self._cluster.list("Pod")
        await self._services.sync(services)
        taken = {wanted_port(service) for service in services}
        for service in services:
            await self._guard(service, self._services.reconcile(service, pods, taken))

    async def _guard(self, manifest: Manifest, step: Awaitable[float | None]) -> None:
        """One object's trouble must not hold up the others."""
        try:
            wait = await step
        except Conflict:
            wait = 0.0
        except ClusterUnavailable:
            raise
        except Exception:
            LOG.exception("%s %s cannot be reconciled", manifest["kind"], manifest["metadata"]["name"])
            wait = RETRY_SECONDS
        if wait is not None:
            self._waits.append(max(wait, 0.02))

    async def _care_for_logs(self) -> None:
        while True:
            begun = time.monotonic()
            with contextlib.suppress(OSError, ClusterUnavailable):
                pods = await self._cluster.list("Pod")
                names = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods}
                await asyncio.to_thread(logs.rotate_all, self._log_dir)
                retention = self._settings.log_retention_seconds
                await asyncio.to_thread(logs.remove_expired, self._log_dir, names, retention)
            await asyncio.sleep(max(0.0, LOG_CARE_SECONDS - (time.monotonic() - begun)))


def _owned(owner: Manifest, pods: Sequence[Manifest]) -> list[Manifest]:
    uid = owner["metadata"]["uid"]
    return [pod for pod in pods if any(ref["uid"] == uid for ref in pod["metadata"].get("ownerReferences", []))]
