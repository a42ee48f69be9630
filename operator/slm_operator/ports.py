"""What the reconciler needs from the world, declared by the one who needs it.

Objects are Kubernetes manifests as plain dictionaries: ``apiVersion``, ``kind``, ``metadata``
(``namespace``, ``name``, ``uid``, ``resourceVersion``, ``generation``, ``labels``,
``ownerReferences``), ``spec``, ``status``.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from slm_operator.core.plan import EventRecord, Manifest, ObjectKey

__all__ = ["Clock", "Cluster", "EventRecord", "Manifest", "ObjectKey"]


class Clock(Protocol):
    """Tells the time, so that planners never do."""

    def now(self) -> datetime:
        """The current time, timezone-aware, UTC."""
        ...


class Cluster(Protocol):
    """A place that keeps objects and runs Jobs and Deployments: an API server or the local backend.

    Errors: every method raises ``slm_operator.errors.ClusterUnavailable`` when the place cannot be
    reached; ``apply`` and ``update_status`` raise ``Conflict`` when the object is owned by someone else or
    was deleted in between.
    """

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object, or None. Reads a cache where there is one."""
        ...

    async def list(self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Objects of a kind, in one namespace or all (empty), whose labels include ``labels``."""
        ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or update by server-side apply; an unchanged apply leaves resourceVersion alone."""
        ...

    async def delete(self, key: ObjectKey) -> None:
        """Delete the object and, through owner references, its children. Absent is fine."""
        ...

    async def update_status(self, key: ObjectKey, status: Manifest) -> None:
        """Replace ``status``; writes nothing when it is equal."""
        ...

    async def record(self, event: EventRecord) -> None:
        """Record an Event."""
        ...

    def changes(self) -> AsyncIterator[ObjectKey]:
        """Keys of objects that may have changed, starting with every object that exists."""
        ...
