"""What the API server was last seen to hold, kept as compact JSON.

A Pod of 10 KB takes 60 KB as Python objects; operators watch thousands. Text also cannot be changed by accident.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

from slm_operator.core.manifests.metadata import LABEL_KIND, LABEL_NAME
from slm_operator.core.plan import key_of
from slm_operator.ports import Manifest, ObjectKey

DROPPED_METADATA = ("managedFields", "selfLink")
"""Bookkeeping of the API server, often the larger half of an object, which nobody here reads."""
REMEMBERED_REMOVALS = 1024
"""Objects whose end is remembered: for as long as an answer to a write of ours may be on its way."""
KEPT_STATUS = {"Node": ("allocatable", "conditions")}
"""Of a kind's status, where not all: the images that a Node holds take more than all the rest of it."""
DROPPED_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration",)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as it was last seen."""

    uid: str
    version: int
    """``resourceVersion``: since Kubernetes 1.35 a number that grows, and may be compared."""
    owner: tuple[str, str]
    """Kind and name of the object of ours it belongs to, from its labels; empty for others."""
    text: bytes


class ObjectCache:
    """Objects by key, newest version only. Not thread-safe: it belongs to one event loop."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[ObjectKey, Entry]] = {}
        self._owned: dict[tuple[str, str, str, str], set[ObjectKey]] = {}
        # Children by their own kind, namespace and owner: a namespace may hold a thousand services.
        self._removals: dict[str, int] = {}
        # By uid, the version at which an object went, oldest first.
        self._watchers: set[_Changes] = set()

    def put(self, manifest: Manifest) -> bool:
        """Remember an object; False when it is no news: older than, or the same as, what is known of that name.

        An answer to a write may come after the watch told that the object went, and must not bring it back.
        """
        key, meta = key_of(manifest), manifest["metadata"]
        version, known = int(meta["resourceVersion"]), self.entry(key)
        if (known is not None and known.version >= version) or self._removals.get(meta["uid"], 0) >= version:
            return False
        self._forget(key)
        labels = meta.get("labels") or {}
        owner = (labels.get(LABEL_KIND, ""), labels.get(LABEL_NAME, ""))
        self._kinds.setdefault(key.kind, {})[key] = Entry(meta["uid"], version, owner, _compact(manifest))
        if owner[0]:
            self._owned.setdefault((key.kind, key.namespace, *owner), set()).add(key)
        self._announce(key)
        return True

    def remove(self, key: ObjectKey, version: int) -> bool:
        """Forget an object that was gone at ``version``; one that is newer, and so was made again, stays."""
        known = self.entry(key)
        if known is None or known.version > version:
            return False
        self._forget(key)
        self._removals[known.uid] = version
        if len(self._removals) > REMEMBERED_REMOVALS:
            del self._removals[next(iter(self._removals))]
        self._announce(key)
        return True

    def get(self, key: ObjectKey) -> Manifest | None:
        """A copy of the object, or None."""
        known = self.entry(key)
        return None if known is None else json.loads(known.text)

    def entry(self, key: ObjectKey) -> Entry | None:
        """What is known of an object, without reading it."""
        return self._kinds.get(key.kind, {}).get(key)

    def keys(self, kind: str) -> list[ObjectKey]:
        """Keys of a kind in the order in which they were first seen."""
        return list(self._kinds.get(kind, {}))

    def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        """Copies of the objects of a kind, by namespace and name, whose labels include ``labels``."""
        found = (self.get(key) for key in sorted(self._candidates(kind, namespace, labels)))
        wanted = labels.items()
        return [each for each in found if each and wanted <= (each["metadata"].get("labels") or {}).items()]

    def _candidates(self, kind: str, namespace: str, labels: Mapping[str, str]) -> Iterable[ObjectKey]:
        if namespace and LABEL_KIND in labels and LABEL_NAME in labels:
            return self._owned.get((kind, namespace, labels[LABEL_KIND], labels[LABEL_NAME]), set())
        return [key for key in self._kinds.get(kind, {}) if namespace in ("", key.namespace)]

    async def changes(self) -> AsyncIterator[ObjectKey]:
        """Keys of all objects, then of each one that changes or goes; repeats that were not taken yet are one."""
        watcher = _Changes()
        self._watchers.add(watcher)
        try:
            for kind in list(self._kinds):
                for key in self.keys(kind):
                    watcher.add(key)
            while True:
                yield await watcher.take()
        finally:
            self._watchers.discard(watcher)

    def touch(self, key: ObjectKey) -> None:
        """Announce an object as if it had changed."""
        self._announce(key)

    def _announce(self, key: ObjectKey) -> None:
        for watcher in self._watchers:
            watcher.add(key)

    def _forget(self, key: ObjectKey) -> None:
        known = self._kinds.get(key.kind, {}).pop(key, None)
        if known is None or not known.owner[0]:
            return
        group = (key.kind, key.namespace, *known.owner)
        self._owned[group].discard(key)
        if not self._owned[group]:
            del self._owned[group]


class _Changes:
    """Keys to be looked at, each at most once."""

    def __init__(self) -> None:
        self._keys: dict[ObjectKey, None] = {}
        self._wake = asyncio.Event()

    def add(self, key: ObjectKey) -> None:
        self._keys[key] = None
        self._wake.set()

    async def take(self) -> ObjectKey:
        while not self._keys:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        return key


def _compact(manifest: Manifest) -> bytes:
    meta = {name: value for name, value in manifest["metadata"].items() if name not in DROPPED_METADATA}
    if any(name in meta.get("annotations", {}) for name in DROPPED_ANNOTATIONS):
        kept = meta["annotations"].items()
        meta["annotations"] = {name: value for name, value in kept if name not in DROPPED_ANNOTATIONS}
    compact = {**manifest, "metadata": meta}
    if names := KEPT_STATUS.get(manifest["kind"]):
        compact["status"] = {name: value for name, value in (manifest.get("status") or {}).items() if name in names}
    return json.dumps(compact, separators=(",", ":")).encode()
