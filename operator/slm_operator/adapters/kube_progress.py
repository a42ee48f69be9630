"""Progress of running steps: the last line of their log, looked at every few seconds."""

import asyncio
import logging

from pydantic import ValidationError

from slm_contract.results import Progress
from slm_operator.adapters.kube import KubeCluster
from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.kube_kinds import path_of
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.core.manifests.metadata import ENGINE_STEPS, LABEL_STEP, SERVE
from slm_operator.errors import SlmError
from slm_operator.ports import Manifest, ObjectKey

PROGRESS_SECONDS = 5.0
"""How often a log is looked at, and so how often progress may write a status."""
TAIL = {"tailLines": "3", "limitBytes": "16384"}
"""The last line is progress unless a library wrote behind it."""

log = logging.getLogger(__name__)


class ProgressReader:
    """Keeps ``KubeCluster.progress`` up to date with the logs of steps that run."""

    def __init__(self, client: KubeClient, cluster: KubeCluster, cache: ObjectCache) -> None:
        self._client = client
        self._cluster = cluster
        self._cache = cache
        self._running: dict[ObjectKey, str] = {}

    async def run(self) -> None:
        """Read for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._poll())

    async def _follow(self) -> None:
        async for key in self._cache.changes():
            if key.kind != "Pod":
                continue
            pod = self._cache.get(key)
            if pod is not None and is_running_step(pod):
                self._running[key] = pod["metadata"]["uid"]
            elif key in self._running:
                self._cluster.progress.pop(self._running.pop(key), None)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            for key, uid in list(self._running.items()):
                await self._read(key, uid)

    async def _read(self, key: ObjectKey, uid: str) -> None:
        try:
            text = await self._client.read(path_of(key, "log"), TAIL, accept="*/*")
        except SlmError as error:
            log.debug("a log could not be read", extra={"object": str(key), "error": str(error)})
            return
        told = read_progress(text or "")
        if told is not None and key in self._running and self._cluster.progress.get(uid) != told:
            self._cluster.progress[uid] = told
            self._cache.touch(key)


def is_running_step(pod: Manifest) -> bool:
    """Whether a Pod is a pipeline step at work."""
    step = (pod["metadata"].get("labels") or {}).get(LABEL_STEP, SERVE)
    return bool(step not in ENGINE_STEPS and pod.get("status", {}).get("phase") == "Running")


def read_progress(text: str) -> Manifest | None:
    """The last progress in the lines of a log, or None."""
    for line in reversed(text.splitlines()):
        try:
            return Progress.model_validate_json(line).model_dump(mode="json", by_alias=True)
        except ValidationError:
            continue
    return None
