"""What a planner answers, and the identities it speaks about."""

from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON values."""


@dataclass(frozen=True, order=True)
class ObjectKey:
    """Identity of one object: kind, namespace and name. The group follows from the kind."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True)
class EventRecord:
    """One Kubernetes Event about ``about``; equal records are counted, not repeated."""

    about: ObjectKey
    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What must be done for one object: carried out as it is, or not at all."""

    status: Manifest | None = None
    """The whole new status of the object; None for an object whose status is not ours."""
    hold: bool | None = None
    """Whether the object must carry our finalizer from now on, before anything else is done; None leaves it as it is.
    False lets the object go, after everything else is done."""
    create: tuple[Manifest, ...] = ()
    """Children to create where there is none of that name: they are never changed afterwards (Jobs, the claim)."""
    apply: tuple[Manifest, ...] = ()
    """Children to create or bring up to date."""
    delete: tuple[ObjectKey, ...] = ()
    """Children to remove."""
    events: tuple[EventRecord, ...] = ()
    requeue_after_seconds: float | None = None
    """Look again after this time even if nothing changes."""


def key_of(manifest: Manifest) -> ObjectKey:
    """Identity of a manifest; without a namespace it is in ``default``."""
    meta = manifest["metadata"]
    return ObjectKey(manifest["kind"], meta.get("namespace") or "default", meta["name"])
