"""Keeps the gateway's directory up with the objects of a cluster, whichever backend keeps them."""

import asyncio
import logging
from itertools import chain

from slm_operator.core.manifests.metadata import ENGINE_STEPS, LABEL_KIND, LABEL_NAME, LABEL_STEP
from slm_operator.core.plan import key_of
from slm_operator.errors import ClusterUnavailable
from slm_operator.gateway.catalog import read_service
from slm_operator.gateway.directory import MemoryDirectory
from slm_operator.ports import Cluster, Manifest, ObjectKey
from slm_operator.reconcile.references import References

SERVICE = "InferenceService"
RETRY_SECONDS = 1.0
"""Wait before a cluster that could not be read is read anew. Until then the gateway serves what it knows."""
LOG = logging.getLogger(__name__)


class Follower:
    """Reads services and their engines into a directory. It belongs to one event loop."""

    def __init__(self, cluster: Cluster, directory: MemoryDirectory, *, scaled_by_others: bool) -> None:
        """``scaled_by_others``: as for ``read_service``."""
        self._cluster = cluster
        self._directory = directory
        self._scaled_by_others = scaled_by_others
        self._references = References()
        self._owners: dict[ObjectKey, ObjectKey] = {}
        # Engines that are gone carry no labels any more.

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self.fill()  # Changes that were missed may have been deletions.
                async for key in self._cluster.changes():
                    await self._notice(key)
            except ClusterUnavailable as error:
                LOG.warning("services are not followed: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def fill(self) -> None:
        """Read all services; raises ClusterUnavailable."""
        found = {}
        for manifest in await self._cluster.list(SERVICE):
            key = key_of(manifest)
            self._references.learn(key, manifest)
            found[key] = manifest
        for service in self._directory.services():
            if ObjectKey(SERVICE, service.namespace, service.name) not in found:
                self._directory.remove(service.key)
        for key in found:
            await self._read(key)

    async def _notice(self, key: ObjectKey) -> None:
        if key.kind == "Pod":
            owner = self._owner(key, await self._cluster.get(key))
            if owner is not None:
                await self._read(owner)
        elif key.kind == SERVICE:
            self._references.learn(key, await self._cluster.get(key))
            await self._read(key)
        elif key.kind in {"SLMModel", "QuantJob"}:
            self._references.learn(key, await self._cluster.get(key))
            for each in self._references.of(key):
                if each.kind == SERVICE:
                    await self._read(each)

    def _owner(self, key: ObjectKey, pod: Manifest | None) -> ObjectKey | None:
        if pod is None:
            return self._owners.pop(key, None)
        labels = pod["metadata"].get("labels") or {}
        if labels.get(LABEL_STEP) not in ENGINE_STEPS:
            return None
        owner = self._owners[key] = ObjectKey(SERVICE, key.namespace, labels.get(LABEL_NAME, ""))
        return owner

    async def _read(self, key: ObjectKey) -> None:
        manifest = await self._cluster.get(key)
        if manifest is None:
            self._directory.remove(f"{key.namespace}/{key.name}")
            return
        labels = {LABEL_KIND: SERVICE, LABEL_NAME: key.name}
        lists = [await self._cluster.list("Pod", key.namespace, {**labels, LABEL_STEP: step}) for step in ENGINE_STEPS]
        pods = list(chain.from_iterable(lists))
        job = await self._named("QuantJob", key.namespace, manifest["spec"].get("quantJobRef"))
        named = manifest["spec"].get("modelRef") or ((job or {}).get("spec") or {}).get("modelRef")
        model = await self._named("SLMModel", key.namespace, named)
        self._directory.put(read_service(manifest, pods, job, model, scaled_by_others=self._scaled_by_others))

    async def _named(self, kind: str, namespace: str, reference: Manifest | None) -> Manifest | None:
        return await self._cluster.get(ObjectKey(kind, namespace, reference["name"])) if reference else None
