"""What the reconciler needs from the world, declared by the one who needs it.

Objects are Kubernetes manifests as plain dictionaries: ``apiVersion``, ``kind``, ``metadata``
(``namespace``, ``name``, ``uid``, ``resourceVersion``, ``generation``, ``labels``,
``ownerReferences``), ``spec``, ``status``.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from slm_operator.core.plan import EventRecord, Manifest, ObjectKey

__all__ = ["Clock", "Cluster", "EventRecord", "Manifest", "ObjectKey", "Observer"]


class Clock(Protocol):
    """Tells the time, so that planners never do."""

    def now(self) -> datetime:
        """The current time, timezone-aware, UTC."""
        ...


class Cluster(Protocol):
    """A place that keeps objects and runs Jobs and Deployments: an API server or the local backend.

    Errors: every method raises ``slm_operator.errors.ClusterUnavailable`` when the place cannot be reached. Writes
    raise ``Conflict`` when the object changed or was deleted in between, ``NameTaken`` where they would have to change
    an object that somebody else controls, and ``NamespaceEnding`` when nothing can be created any more.

    What a write answered is what the next ``get`` and ``list`` show, at least: a cache takes it in at once, so that a
    planner never misses what the operator itself did a moment ago.
    """

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object, or None. Reads a cache where there is one."""
        ...

    async def list(self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Objects of a kind, in one namespace or all (empty), whose labels include ``labels``."""
        ...

    async def list_anew(self, kind: str, namespace: str, labels: Mapping[str, str]) -> Sequence[Manifest]:
        """As ``list``, but asks the place itself: for decisions that what is merely not known yet must not make."""
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object, or leave the one of that name as it is; returns what is there, whoever it belongs to."""
        ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or update by server-side apply; an unchanged apply leaves resourceVersion alone."""
        ...

    async def delete(self, key: ObjectKey) -> None:
        """Delete the object and, through owner references, its children. Absent is fine."""
        ...

    async def update_status(self, key: ObjectKey, status: Manifest, uid: str = "") -> None:
        """Replace ``status``; writes nothing when it is equal. Conflict where the object has another ``uid`` by now."""
        ...

    async def set_finalizers(self, key: ObjectKey, resource_version: str, finalizers: Sequence[str]) -> None:
        """Replace ``metadata.finalizers`` of the version that was read; what waits only for them is gone then.

        Raises Conflict when the object has another version by now. One that is already gone is fine.
        """
        ...

    async def record(self, event: EventRecord) -> None:
        """Record an Event. It is never worth failing for: where none can be written, nothing is."""
        ...

    def changes(self) -> AsyncIterator[ObjectKey]:
        """Keys of objects that may have changed, starting with every object that exists."""
        ...


class Observer(Protocol):
    """Is told what happens, for whoever watches the operator."""

    def waiting(self, count: int) -> None:
        """How many keys wait or are worked on."""
        ...

    def looked(self, key: ObjectKey, seconds: float, result: str) -> None:
        """One look at an object ended: ``ok`` or an exception's name."""
        ...

    def judged(self, key: ObjectKey, ready: str, reason: str) -> None:
        """Status and reason of an object's Ready condition."""
        ...

    def gone(self, key: ObjectKey) -> None:
        """The object is not there (any more)."""
        ...


class Unobserved:
    """The observer of a process that nobody watches."""

    def waiting(self, count: int) -> None:
        """Nobody asks."""

    def looked(self, key: ObjectKey, seconds: float, result: str) -> None:
        """Nobody asks."""

    def judged(self, key: ObjectKey, ready: str, reason: str) -> None:
        """Nobody asks."""

    def gone(self, key: ObjectKey) -> None:
        """Nobody asks."""
