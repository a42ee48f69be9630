"""``ports.Cluster`` over an API server: reads come from the cache, writes are server-side applies."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence

from slm_operator.adapters.kube_client import APPLY, MERGE, KubeClient
from slm_operator.adapters.kube_events import EventWriter
from slm_operator.adapters.kube_kinds import KINDS, path_of
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.core.manifests.metadata import controller_of, describe_controller
from slm_operator.core.plan import key_of
from slm_operator.errors import Conflict, NameTaken, SlmError
from slm_operator.ports import EventRecord, Manifest, ObjectKey

WITHOUT_CONFLICT = {"Service"}
"""Kinds whose objects may lack every field that ours have, a selector first of all, such as the Service ``kubernetes``:
an unforced apply would not conflict with them and so take them over. These are created, which takes over nothing."""

log = logging.getLogger(__name__)


class KubeCluster:
    """Objects on a Kubernetes cluster.

    Every answer to a write goes into the cache at once, so that the next look sees what this one did; the watches,
    which fill the cache otherwise, may be behind.
    """

    def __init__(self, client: KubeClient, cache: ObjectCache) -> None:
        self._client = client
        self._cache = cache
        self._events = EventWriter(client)
        self.progress: dict[str, Manifest] = {}
        """Last line of a running step's log, by uid of its Pod: shown as ``status.progress`` of that Pod."""

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object as last seen, or None."""
        return self._cache.get(key)

    async def list(self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Objects of a kind as last seen, by namespace and name."""
        found = self._cache.list(kind, namespace, labels or {})
        for each in found if kind == "Pod" else ():
            told = self.progress.get(each["metadata"]["uid"])
            if told is not None:
                each.setdefault("status", {})["progress"] = told
        return found

    async def list_anew(self, kind: str, namespace: str, labels: Mapping[str, str]) -> Sequence[Manifest]:
        """What the API server has now; the cache learns it, too."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        answer = await self._client.read(KINDS[kind].path(namespace), {"labelSelector": selector})
        found = [{**item, "kind": kind, "apiVersion": KINDS[kind].api_version} for item in answer["items"] or ()]
        for each in found:
            self._cache.put(each)
        there = {key_of(each) for each in found}
        for known in map(key_of, self._cache.list(kind, namespace, labels)):
            if known not in there:
                self._cache.remove(known, int(answer["metadata"]["resourceVersion"]))
        return found

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object, or return the one of that name as it is."""
        key = key_of(manifest)
        known = self._cache.get(key)
        if known is not None:
            return known
        try:
            made = await self._client.write("POST", KINDS[key.kind].path(key.namespace), manifest)
        except Conflict:
            made = await self._client.read(path_of(key))
        if made is None:
            raise Conflict(f"{key} was not written: it went away in between, or its namespace did.")
        self._cache.put(made)
        return made  # type: ignore[no-any-return]  # JSON from the API server

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply. What is not known as ours is never forced, so that it is not taken over."""
        key = key_of(manifest)
        known = self._cache.get(key)
        if known is None and key.kind in WITHOUT_CONFLICT:
            made = await self.create(manifest)
            _require_same_owner(key, manifest, made)
            return made
        if known is not None:
            _require_same_owner(key, manifest, known)
        query = {"force": "true"} if known is not None else {}
        made = await self._client.write("PATCH", path_of(key), manifest, content=APPLY, query=query)
        if made is None:
            raise Conflict(f"{key} was not written: its namespace does not exist (any more).")
        self._cache.put(made)
        _require_same_owner(key, manifest, made)
        return made  # type: ignore[no-any-return]  # JSON from the API server

    async def delete(self, key: ObjectKey) -> None:
        """Delete the object as it is known, and its children in the background."""
        known = self._cache.entry(key)
        options: Manifest = {"propagationPolicy": "Background"}
        if known is not None:
            options["preconditions"] = {"uid": known.uid}
        await self._client.write("DELETE", path_of(key), options)

    async def update_status(self, key: ObjectKey, status: Manifest, uid: str = "") -> None:
        """Replace the status of exactly the object that was looked at; writes nothing when it is equal."""
        known = self._cache.get(key)
        if known is None or uid not in ("", known["metadata"]["uid"]):
            raise Conflict(f"{key} was deleted in between, so its status cannot be written.")
        wanted = _without_empty_maps(status)
        if _without_empty_maps(known.get("status", {})) == wanted:
            return
        body = _identity(known) | {"status": wanted}
        made = await self._client.write("PATCH", path_of(key, "status"), body, content=APPLY, query={"force": "true"})
        if made is None:
            raise Conflict(f"{key} was deleted in between, so its status cannot be written.")
        self._cache.put(made)

    async def set_finalizers(self, key: ObjectKey, resource_version: str, finalizers: Sequence[str]) -> None:
        """Replace the finalizers of the version that was read."""
        meta = {"resourceVersion": resource_version, "finalizers": list(finalizers)}
        made = await self._client.write("PATCH", path_of(key), {"metadata": meta}, content=MERGE)
        if made is not None:
            self._cache.put(made)

    async def record(self, event: EventRecord) -> None:
        """Record an Event, where one can be written."""
        try:
            await self._events.write(event, self._cache.entry(event.about))
        except SlmError as error:
            log.warning("an Event was not written", extra={"object": str(event.about), "error": str(error)})

    def changes(self) -> AsyncIterator[ObjectKey]:
        """Keys of all objects, then of each one that changes."""
        return self._cache.changes()


def _require_same_owner(key: ObjectKey, manifest: Manifest, found: Manifest) -> None:
    if controller_of(found) != controller_of(manifest):
        raise NameTaken(f"{key} exists already and belongs to {describe_controller(found)}; rename one of the two.")


def _identity(known: Manifest) -> Manifest:
    """What names an object and its version, so that a write meets no other."""
    meta = known["metadata"]
    names = ("namespace", "name", "uid", "resourceVersion")
    return {
        "apiVersion": KINDS[known["kind"]].api_version,
        "kind": known["kind"],
        "metadata": {name: meta[name] for name in names},
    }


def _without_empty_maps(status: Manifest) -> Manifest:
    """Leave out what is empty: of a map whose last entry goes, server-side apply makes null, and then refuses it."""
    return {name: value for name, value in status.items() if value != {}}
