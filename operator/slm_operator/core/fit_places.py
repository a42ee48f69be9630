"""Where on a cluster an engine could run, and what it takes of each place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slm_operator.core.accelerator_labels import build_tolerations
from slm_operator.core.fit_demand import Demand, device_bytes, node_bytes, splits
from slm_operator.core.inventory import Accelerator, NodeKind, Taint

Tolerations = Sequence[Mapping[str, Any]]
"""``spec.tolerations`` of a pod."""


@dataclass(frozen=True)
class Place:
    """An engine on one kind of node: on its CPUs, or on so many of its GPUs."""

    kind: NodeKind
    accelerator: Accelerator | None
    """None for the CPUs."""
    devices: int
    """GPUs it takes; 0 on CPUs."""
    needed_bytes: int
    """Memory it takes of the node, or of each GPU, bytes."""
    offered_bytes: int
    """Memory that the node, or each GPU, has; 0 where it is not known."""

    @property
    def missing_bytes(self) -> int:
        """Bytes by which it does not fit; 0 where it fits, or where nobody knows."""
        return max(0, self.needed_bytes - self.offered_bytes) if self.offered_bytes else 0

    @property
    def fits(self) -> bool:
        """Whether it is known to fit."""
        return 0 < self.needed_bytes <= self.offered_bytes

    def __str__(self) -> str:
        """The place by its node kind."""
        return self.kind.describe(self.accelerator)


def find_places(kind: NodeKind, demand: Demand, accelerator: str, tolerations: Tolerations) -> list[Place]:
    """Where on such a node an engine could run: on its CPUs (llama.cpp alone does), and on each sort of its GPUs."""
    places = []
    if accelerator != "gpu" and demand.engine != "vllm" and tolerates(kind.taints, tolerations):
        places.append(Place(kind, None, 0, node_bytes(demand), kind.memory_bytes))
    if accelerator != "none":
        places += [_on_devices(kind, demand, item) for item in kind.accelerators if item.devices]
    return [place for place in places if place.offered_bytes or place.accelerator]


def _on_devices(kind: NodeKind, demand: Demand, accelerator: Accelerator) -> Place:
    """On as few devices as will do, or on as many as can be used where none will."""
    for devices in splits(demand, accelerator.devices):
        place = Place(kind, accelerator, devices, device_bytes(demand, devices, accelerator), accelerator.usable_bytes)
        if place.fits or not place.offered_bytes:
            return place
    return place


def snugness(place: Place) -> tuple[int, int, int]:
    """GPUs before CPUs, few before many, and then the least memory to spare."""
    return (place.accelerator is None, place.devices, place.offered_bytes - place.needed_bytes)


def is_repelling(kind: NodeKind, tolerations: Tolerations) -> bool:
    """Whether neither the node's CPUs nor its GPUs can be had."""
    own = [each for item in kind.accelerators for each in build_tolerations(item.resource, item.vendor)]
    return not tolerates(kind.taints, [*tolerations, *own])


def tolerates(taints: Sequence[Taint], tolerations: Tolerations) -> bool:
    """Whether a pod with these tolerations may run on a node with these taints."""
    return all(any(_matches(item, taint) for item in tolerations) for taint in taints)


def _matches(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """The scheduler's rule (k8s.io/api/core/v1, ``Toleration.ToleratesTaint``)."""
    key, effect = toleration.get("key") or "", toleration.get("effect") or ""
    exists = toleration.get("operator") == "Exists"
    if effect not in ("", taint.effect) or key not in ("", taint.key) or (not key and not exists):
        return False
    return exists or (toleration.get("value") or "") == taint.value
