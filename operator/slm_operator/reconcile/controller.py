"""The loop: changes become keys, keys become work, failures become delays."""

import asyncio
import logging
import time

from slm_operator.api.registry import INFOS, KINDS
from slm_operator.core.manifests.metadata import LABEL_KIND, LABEL_NAME
from slm_operator.core.store import CLAIM_KIND
from slm_operator.errors import ClusterUnavailable, NotLeading, SlmError
from slm_operator.ports import Cluster, Manifest, ObjectKey, Observer, Unobserved
from slm_operator.reconcile.queue import KeyedQueue
from slm_operator.reconcile.reconciler import Reconciler
from slm_operator.reconcile.references import References

WORKERS = 8
"""Objects reconciled at the same time: planners are quick, waiting for the API server is not."""
STUCK_SECONDS = 180.0
"""A look that takes longer than this hangs: it makes a handful of requests, each of which ends within 30 s."""

log = logging.getLogger(__name__)


class Controller:
    """Keeps every object of our kinds reconciled until cancelled."""

    def __init__(self, cluster: Cluster, reconciler: Reconciler, observer: Observer | None = None) -> None:
        self._cluster = cluster
        self._reconciler = reconciler
        self._observer = observer or Unobserved()
        self._queue = KeyedQueue()
        self._owners: dict[ObjectKey, ObjectKey] = {}
        # A cache: children that are gone carry no labels any more, so their owner is remembered.
        self._references = References()

    async def run(self) -> None:
        """Watch and work."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())
            async for key in self._cluster.changes():
                await self._notice(key)
                await asyncio.sleep(0)

    def look_at(self, key: ObjectKey) -> None:
        """Look at an object soon, for a reason that is in no object."""
        self._queue.add(key)

    def stuck(self) -> str:
        """What has been worked on for too long, in a sentence; empty when work flows, however slowly."""
        longest = self._queue.longest()
        if longest is None or longest[1] < STUCK_SECONDS:
            return ""
        return f"Work is stuck: {longest[0]} has been worked on for {longest[1]:.0f} s."

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            self._observer.waiting(len(self._queue))
            began, result = time.monotonic(), "ok"
            try:
                delay = await self._reconciler.reconcile(key)
            except Exception as error:  # noqa: BLE001 - one object's bug must not end the work on all others
                result = type(error).__name__
                self._put_back(key, error)
            else:
                self._queue.done(key)
                if delay is not None:
                    self._queue.add_after(key, delay)
            self._observer.looked(key, time.monotonic() - began, result)
            # An object that needs no write never waits for anything: without this, a thousand of them would hold up
            # the renewal of the Lease.
            await asyncio.sleep(0)

    def _put_back(self, key: ObjectKey, error: Exception) -> None:
        if not isinstance(error, SlmError):
            log.error("reconcile hit a bug", extra={"object": str(key)}, exc_info=error)
            self._queue.failed(key)
            return
        level = logging.DEBUG if isinstance(error, NotLeading) else logging.WARNING
        log.log(level, "reconcile failed", extra={"object": str(key), "error": str(error)})
        asked = error.retry_after_seconds if isinstance(error, ClusterUnavailable) else None
        self._queue.failed(key, at_least=asked or 0.0)

    async def _notice(self, key: ObjectKey) -> None:
        manifest = await self._cluster.get(key)
        if key.kind in KINDS:
            self._references.learn(key, manifest)
        elif key.kind != CLAIM_KIND:
            owner = self._owner(key, manifest)
            if owner is None:
                return
            if owner.kind != CLAIM_KIND:
                self._queue.add(owner)
                return
            key = owner  # What belongs to the store concerns all that use it.
        self._queue.add(key)
        for dependant in self._dependants(key):
            self._queue.add(dependant)

    def _owner(self, key: ObjectKey, manifest: Manifest | None) -> ObjectKey | None:
        if manifest is None:
            return self._owners.pop(key, None)
        labels = manifest["metadata"].get("labels", {})
        if labels.get(LABEL_KIND) not in (*INFOS, CLAIM_KIND):
            return None
        owner = ObjectKey(labels[LABEL_KIND], key.namespace, labels.get(LABEL_NAME, ""))
        self._owners[key] = owner
        return owner

    def _dependants(self, key: ObjectKey) -> list[ObjectKey]:
        """What must be looked at because ``key`` changed: what names it, and what shares its store."""
        store = self._reconciler.store_key(key.namespace)
        if key.kind == CLAIM_KIND:
            return self._references.in_namespace(key.namespace) if key == store else []
        return [*self._references.of(key), *([store] if store and key.kind == "SLMModel" else [])]
