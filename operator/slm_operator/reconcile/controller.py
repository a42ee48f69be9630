"""The loop: changes become keys, keys become work, failures become delays."""

import asyncio
import logging

from slm_operator.api.registry import INFOS, KINDS
from slm_operator.core.manifests.metadata import LABEL_KIND, LABEL_NAME
from slm_operator.errors import SlmError
from slm_operator.ports import Cluster, Manifest, ObjectKey
from slm_operator.reconcile.queue import KeyedQueue
from slm_operator.reconcile.reconciler import Reconciler

WORKERS = 8
"""Objects reconciled at the same time: planners are quick, waiting for the API server is not."""

log = logging.getLogger(__name__)


class Controller:
    """Keeps every object of our kinds reconciled until cancelled."""

    def __init__(self, cluster: Cluster, reconciler: Reconciler) -> None:
        self._cluster = cluster
        self._reconciler = reconciler
        self._queue = KeyedQueue()
        self._owners: dict[ObjectKey, ObjectKey] = {}
        # A cache: children that are gone carry no labels any more, so their owner is remembered.

    async def run(self) -> None:
        """Watch and work."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())
            async for key in self._cluster.changes():
                await self._notice(key)

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            try:
                delay = await self._reconciler.reconcile(key)
            except SlmError as error:
                log.warning("reconcile failed", extra={"object": str(key), "error": str(error)})
                self._queue.failed(key)
            except Exception:
                log.exception("reconcile hit a bug", extra={"object": str(key)})
                self._queue.failed(key)
            else:
                self._queue.done(key)
                if delay is not None:
                    self._queue.add_after(key, delay)

    async def _notice(self, key: ObjectKey) -> None:
        if key.kind not in KINDS:
            owner = await self._owner(key)
            if owner is not None:
                self._queue.add(owner)
            return
        self._queue.add(key)
        for dependant in await self._dependants(key):
            self._queue.add(dependant)

    async def _owner(self, key: ObjectKey) -> ObjectKey | None:
        manifest = await self._cluster.get(key)
        if manifest is None:
            return self._owners.pop(key, None)
        labels = manifest["metadata"].get("labels", {})
        if labels.get(LABEL_KIND) not in INFOS:
            return None
        owner = ObjectKey(labels[LABEL_KIND], key.namespace, labels.get(LABEL_NAME, ""))
        self._owners[key] = owner
        return owner

    async def _dependants(self, key: ObjectKey) -> list[ObjectKey]:
        """Objects whose references name ``key``, directly or through a QuantJob."""
        found = []
        for kind in ("QuantJob", "InferenceService"):
            for manifest in await self._cluster.list(kind, key.namespace):
                if key.kind == "InferenceService" or not names(manifest, key):
                    continue
                found.append(ObjectKey(kind, key.namespace, manifest["metadata"]["name"]))
        return found


def names(manifest: Manifest, key: ObjectKey) -> bool:
    """Whether a manifest's spec refers to ``key``."""
    spec = manifest.get("spec", {})
    field = {"SLMModel": "modelRef", "QuantJob": "quantJobRef"}.get(key.kind, "")
    reference = spec.get(field) if isinstance(spec, dict) else None
    return isinstance(reference, dict) and reference.get("name") == key.name
