"""Facts in, an inventory out: which GPUs a cluster's nodes offer, from what clusters publish.

A vendor's devices count once for each node, though a device plugin and a DRA driver may both offer them, and neither
knows what the other gave away: those of the plugin, as engines that run ask for its resource, unless a DeviceClass is
asked for. Of the plugin's devices labels tell the memory, of the driver's its ResourceSlices. Nothing here raises for
what a stranger may have written into a label: it becomes a note.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from slm_operator.core.accelerator_labels import read_labels
from slm_operator.core.accelerator_slices import read_slices
from slm_operator.core.inventory import Accelerator, Inventory, NodeFacts, NodeKind, Taint, shorten
from slm_operator.core.manifest_reading import as_list, as_mapping, as_quantity, as_text
from slm_operator.core.plan import Manifest

GIB = 2**30
REPELLING = ("NoSchedule", "NoExecute")


@dataclass(frozen=True)
class Published:
    """What a cluster tells of what its nodes offer; empty where that may not be read."""

    nodes: tuple[Manifest, ...] = ()
    slices: tuple[Manifest, ...] = ()
    """ResourceSlices."""
    classes: tuple[Manifest, ...] = ()
    """DeviceClasses."""


def build_inventory(nodes: Iterable[Manifest], slices: Iterable[Manifest] = (), *, by_claim: bool = False) -> Inventory:
    """The inventory of a cluster, from Node and ResourceSlice manifests (``resource.k8s.io/v1``, ``v1beta1``).

    The order of nodes and slices does not matter. Pass only nodes that the pod's node selector admits; nodes that are
    cordoned or not ready are left out with a note. ``by_claim`` takes what a node offers in both ways as what claims
    ask for, and not as what resources do.
    """
    devices, notes = read_slices(slices)
    facts, known = [], set()
    for node in nodes:
        name = as_text(as_mapping(node.get("metadata")).get("name"))
        known.add(name)
        problem = _unavailable(node)
        if problem:
            notes.append(f"Node {name} {problem}.")
            continue
        facts.append(read_node(node, devices.get(name, ()), by_claim=by_claim))
    notes += [f"Devices are published for node {name}, which does not exist." for name in devices if name not in known]
    return group_nodes(facts, notes)


def read_node(node: Manifest, published: Sequence[Accelerator] = (), *, by_claim: bool = False) -> NodeFacts:
    """What one node offers; ``published`` are its devices by ResourceSlices."""
    metadata, status = as_mapping(node.get("metadata")), as_mapping(node.get("status"))
    name, allocatable = as_text(metadata.get("name")), as_mapping(status.get("allocatable"))
    labels = {key: as_text(value) for key, value in as_mapping(metadata.get("labels")).items()}
    labelled, notes = read_labels(labels, allocatable)
    first, second = (published, labelled) if by_claim else (labelled, published)
    counted = {item.vendor for item in first}
    accelerators = sorted([*first, *(item for item in second if item.vendor not in counted)])
    return NodeFacts(
        name=name,
        accelerators=tuple(accelerators),
        memory_bytes=int(as_quantity(allocatable.get("memory")) or 0),
        cpus=as_quantity(allocatable.get("cpu")) or Decimal(0),
        architecture=labels.get("kubernetes.io/arch", ""),
        taints=_taints(as_mapping(node.get("spec")).get("taints")),
        # Devices that labels tell of and no plugin offers are then a driver's.
        notes=() if published else tuple(f"Node {name}: {note}" for note in notes),
    )


def group_nodes(facts: Iterable[NodeFacts], notes: Iterable[str] = ()) -> Inventory:
    """Nodes that offer the same as one kind, those with the most device memory first.

    Machines of one type differ by a few MiB in what the kubelet reserves: memory counts as equal within the GiB.
    """
    groups: dict[tuple[Any, ...], list[NodeFacts]] = {}
    every = list(facts)
    for node in every:
        key = (node.accelerators, node.memory_bytes // GIB, node.cpus, node.architecture, node.taints)
        groups.setdefault(key, []).append(node)
    kinds = sorted((_kind(group) for group in groups.values()), key=_rank)
    told = {note for node in every for note in node.notes}
    return Inventory(tuple(kinds), tuple(sorted({*told, *notes})))


def _kind(group: list[NodeFacts]) -> NodeKind:
    first = group[0]
    return NodeKind(
        nodes=tuple(sorted(node.name for node in group)),
        accelerators=first.accelerators,
        memory_bytes=min(node.memory_bytes for node in group),
        cpus=first.cpus,
        architecture=first.architecture,
        taints=first.taints,
    )


def _rank(kind: NodeKind) -> tuple[Any, ...]:
    devices = sum(item.devices * item.memory_bytes for item in kind.accelerators)
    return (-devices, -len(kind.accelerators), -kind.memory_bytes, kind.nodes)


def _unavailable(node: Manifest) -> str:
    """Why no pod can start on a node now, or nothing."""
    if as_mapping(node.get("spec")).get("unschedulable") is True:
        return "is cordoned"
    for condition in as_list(as_mapping(node.get("status")).get("conditions")):
        told = as_mapping(condition)
        if told.get("type") == "Ready" and told.get("status") != "True":
            return "is not ready"
    return ""


def _taints(given: object) -> tuple[Taint, ...]:
    taints = [as_mapping(item) for item in as_list(given)]
    return tuple(sorted(_taint(item) for item in taints if item.get("effect") in REPELLING))


def _taint(given: Mapping[str, Any]) -> Taint:
    return Taint(shorten(given.get("key", "")), as_text(given.get("value")), as_text(given.get("effect")))
