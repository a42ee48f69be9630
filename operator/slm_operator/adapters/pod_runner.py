"""One worker per pod object; processes whose pod object is gone are ended."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from slm_operator.adapters import connections, processes
from slm_operator.adapters.pod_status import condition, is_final
from slm_operator.adapters.pod_worker import Folders, PodWorker
from slm_operator.adapters.process_table import ProcessRecord, ProcessTable
from slm_operator.core.pods import is_ready
from slm_operator.ports import Cluster, Manifest, ObjectKey

LOG = logging.getLogger(__name__)
Drain = Callable[[int, float], Awaitable[None]]
"""Waits until no request is under way on a port, for at most some seconds."""


class PodRunner:
    """Makes processes follow Pod objects."""

    def __init__(self, cluster: Cluster, table: ProcessTable, folders: Folders, drain: Drain) -> None:
        self._cluster, self._table, self._folders, self._drain = cluster, table, folders, drain
        self._workers: dict[str, tuple[PodWorker, asyncio.Task[None]]] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def clean(self) -> None:
        """At start: kill what carries our mark but is recorded nowhere; nothing is ready until it answers again."""
        killed = processes.kill_orphans(self._folders.state, {record.pod_uid for record in self._table.all()})
        if killed:
            LOG.warning("killed %d processes that an earlier daemon left unrecorded", killed)

        for pod in await self._cluster.list("Pod"):
            if is_ready(pod) and not is_final(pod):
                key = ObjectKey("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
                unready = condition(pod["status"], "Ready", met=False, reason="ContainersNotReady")
                await self._cluster.update_status(key, {**pod["status"], "conditions": [unready]})

    def sync(self, pods: Sequence[Manifest]) -> None:
        """Start workers for new pods, end those of deleted ones."""
        uids = {pod["metadata"]["uid"] for pod in pods}
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self._workers and not is_final(pod):
                worker = PodWorker(self._cluster, self._table, self._folders, pod)
                self._workers[uid] = (worker, asyncio.create_task(worker.run()))
        for record in self._table.all():
            if record.pod_uid not in uids and record.pod_uid not in self._stopping:
                self._stopping[record.pod_uid] = asyncio.create_task(self._stop(record))
        for uid in [uid for uid in self._workers if uid not in uids and uid not in self._stopping]:
            self._workers.pop(uid)[1].cancel()

    def failed(self) -> list[BaseException]:
        """Errors of workers that died of a bug; they are started again by the next ``sync``."""
        dead = {uid: task for uid, (_, task) in self._workers.items() if task.done() and not task.cancelled()}
        errors = {uid: error for uid, task in dead.items() if (error := task.exception())}
        for uid in errors:
            del self._workers[uid]
        return list(errors.values())

    async def release(self) -> None:
        """Stop following; the processes run on."""
        tasks = [task for _, task in self._workers.values()] + list(self._stopping.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._workers.clear()
        self._stopping.clear()

    async def end_all(self) -> None:
        """End every recorded process, gracefully and side by side."""
        await self.release()
        await self.end(self._table.all())
        processes.kill_orphans(self._folders.state, set())

    async def end(self, records: Sequence[ProcessRecord]) -> None:
        """End recorded processes that nobody follows, gracefully and side by side."""
        await asyncio.gather(*(self._end(record) for record in records))

    async def _stop(self, record: ProcessRecord) -> None:
        """End a deleted pod, letting the requests under way finish first."""
        try:
            worker, task = self._workers.get(record.pod_uid, (None, None))
            if worker and task:
                await self._finish_answers(record)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await worker.stop()
            else:
                await self._end(record)
        finally:
            self._workers.pop(record.pod_uid, None)
            self._stopping.pop(record.pod_uid, None)

    async def _end(self, record: ProcessRecord) -> None:
        """End a process that nobody follows, letting the requests under way finish first."""
        await self._finish_answers(record)
        meta = {"namespace": record.namespace, "name": record.pod, "uid": record.pod_uid}
        pod = {"metadata": meta, "spec": {"containers": [{}]}}
        await PodWorker(self._cluster, self._table, self._folders, pod).stop()

    async def _finish_answers(self, record: ProcessRecord) -> None:
        """Wait for the answers under way, through forwarders and over connections of clients' own."""
        if record.port:
            began = time.monotonic()
            await self._drain(record.port, record.grace_seconds)
            left = record.grace_seconds - (time.monotonic() - began)
            await connections.wait_until_quiet(record.pid, record.port, left)
