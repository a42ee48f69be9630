"""Devices by the labels that vendors' tools put on nodes, and by the extended resources of device plugins.

Labels tell model and memory, allocatable tells how many can be asked for. Sources: NVIDIA's GPU Feature Discovery
(NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery), ROCm/k8s-device-plugin's node labeller, and
intel/intel-device-plugins-for-kubernetes, cmd/gpu_plugin/labels.md.
"""

import re
from collections.abc import Mapping
from typing import Any

from slm_operator.core.inventory import Accelerator, shorten
from slm_operator.core.manifest_reading import as_count, as_quantity

Labels = Mapping[str, str]
Found = tuple[list[Accelerator], list[str]]
"""Devices, and notes about what could not be read."""

MIB, GIB = 2**20, 2**30
LARGEST_BYTES = 16 * 2**40
"""No device has more memory; a label that says so is in another unit than it should be."""

VENDORS = {"nvidia.com": "NVIDIA", "amd.com": "AMD", "intel.com": "Intel"}
"""Domain of a vendor's resources to its name."""
TAINTS = {
    "NVIDIA": ["nvidia.com/gpu"],
    "AMD": ["amd.com/gpu"],
    "Intel": ["gpu.intel.com/i915", "gpu.intel.com/xe"],
}
"""Resources of whole devices, after which nodes are tainted."""
NVIDIA_WHOLE = ("nvidia.com/gpu", "nvidia.com/gpu.shared")
"""Resources of whole devices; the second is the plugin's name for shares (``renameByDefault``)."""
MIG_RESOURCE = re.compile(r"nvidia\.com/mig-((?:\d+c\.)?\d+g\.\d+gb(?:\.me)?)")
MIG_LABEL = re.compile(MIG_RESOURCE.pattern + r"\.count")
MIG_PRODUCT = re.compile(r"(.*)-MIG-(.+)")
AMD_RESOURCE = re.compile(r"amd\.com/(gpu|[sdtqc]px_nps\d)")
AMD_UNPARTITIONED = ("gpu", "spx_nps1")
INTEL_RESOURCE = re.compile(r"gpu\.intel\.com/(i915|xe)")
"""``gpu.intel.com/i915_monitoring`` is no device to compute on."""
INTEL_DEVICE = re.compile(r"gpu\.intel\.com/device-id\.(?:\d+-)?([0-9a-f]{4})\.count")
CLOUD_PRODUCTS = ("karpenter.k8s.aws/instance-gpu-name", "cloud.google.com/gke-accelerator")
"""Where no vendor's tool runs, what the node was ordered as."""
CLOUD_MEMORY = "karpenter.k8s.aws/instance-gpu-memory"
"""MiB of one device."""


def read_labels(labels: Labels, allocatable: Mapping[str, Any]) -> Found:
    """All devices of a node by labels and allocatable resources."""
    found, notes = [], []
    for read in (_read_nvidia, _read_amd, _read_intel):
        devices, more = read(labels, allocatable)
        found += devices
        notes += more
    return found, notes


def find_memory_label(accelerator: Accelerator) -> str:
    """The label of nodes that tells such a device's memory in MiB, as a whole number; empty where there is none."""
    if accelerator.source == "nvidia.com labels":
        return "nvidia.com/gpu.memory" if accelerator.resource in NVIDIA_WHOLE else f"{accelerator.resource}.memory"
    return CLOUD_MEMORY if accelerator.source == "karpenter.k8s.aws labels" and accelerator.memory_bytes else ""


def build_tolerations(resource: str, vendor: str) -> tuple[dict[str, str], ...]:
    """What a pod tolerates that asks for such devices, by resource or, where that is empty, by claim.

    Nodes with GPUs are commonly tainted with the resource's name, those with partitions also with that of the whole
    device, and not every cluster tolerates it by itself (admission plugin ExtendedResourceToleration). Nodes keep
    these taints where a DRA driver takes the place of the device plugin.
    """
    names = ["nvidia.com/gpu", resource] if MIG_RESOURCE.fullmatch(resource) else [resource]
    names = names if resource else TAINTS.get(vendor, [])
    return tuple({"key": name, "operator": "Exists"} for name in names)


def find_vendor(resource: str) -> str:
    """The vendor of a resource's domain; empty for one that is not known."""
    domain = resource.partition("/")[0]
    return next((name for suffix, name in VENDORS.items() if domain == suffix or domain.endswith(f".{suffix}")), "")


def _read_nvidia(labels: Labels, allocatable: Mapping[str, Any]) -> Found:
    whole, notes = _read_nvidia_whole(labels, allocatable)
    partitions, more = _read_mig_mixed(labels, allocatable)
    return whole + partitions, notes + more


def _read_nvidia_whole(labels: Labels, allocatable: Mapping[str, Any]) -> Found:
    """Whole devices and, with the strategy single, MIG devices that go by the whole devices' name."""
    offered = {name: count for name in NVIDIA_WHOLE if (count := _offered(allocatable, name))}
    product, notes = labels.get("nvidia.com/gpu.product", ""), []
    mixed = labels.get("nvidia.com/mig.strategy") == "mixed"
    labelled = as_count(labels.get("nvidia.com/gpu.count", ""))
    if not offered:
        return [], _unoffered(labelled, "nvidia.com/gpu") if not mixed else []
    memory, more = _memory(labels, "nvidia.com/gpu.memory", MIB)
    partition = MIG_PRODUCT.fullmatch(product.removesuffix("-SHARED"))
    if partition and partition[2] == "INVALID":
        # https://github.com/NVIDIA/gpu-operator/issues/479: partitions of several sizes under the strategy single.
        notes.append("MIG strategy is single, but its partitions are of several sizes: use mixed.")
        memory, partition = 0, None
    source = "nvidia.com labels" if product or memory else "allocatable"
    if not product and not memory:
        product, memory, source, ordered = _ordered_as(labels)
        more += ordered
    name = partition[1] if partition else product.removesuffix("-SHARED").removesuffix("-MIG-INVALID")
    return [
        Accelerator(
            vendor="NVIDIA",
            product=_model(name, "NVIDIA"),
            count=count,
            memory_bytes=memory,
            resource=resource,
            partition=partition[2] if partition else "",
            strategy="single" if partition else "",
            shared_by=_shared_by(labels, "nvidia.com/gpu", product, resource, count, labelled),
            source=source,
        )
        for resource, count in offered.items()
    ], notes + more


def _ordered_as(labels: Labels) -> tuple[str, int, str, list[str]]:
    """Product, memory, source and notes by a cloud's own labels."""
    key = next((key for key in CLOUD_PRODUCTS if labels.get(key)), "")
    if not key:
        return "", 0, "allocatable", []
    memory, notes = _memory(labels, CLOUD_MEMORY, MIB)
    return labels[key].removeprefix("nvidia-"), memory, f"{key.partition('/')[0]} labels", notes


def _shared_by(labels: Labels, key: str, product: str, resource: str, count: int, labelled: int | None) -> int:
    """Pods per device. The label is not always right (gpu-feature-discovery issue 76), so the numbers count too."""
    told = as_count(labels.get(f"{key}.replicas", "")) or 1
    more_than_there_are = count // labelled if labelled and count > labelled else 1
    shared = max(told, more_than_there_are)
    # A share by name, with nothing that says of how many, is still no device of its own.
    return max(shared, 2) if product.endswith("-SHARED") or resource.endswith(".shared") else shared


def _read_mig_mixed(labels: Labels, allocatable: Mapping[str, Any]) -> Found:
    found, notes = [], []
    profiles = {match[1] for key in labels if (match := MIG_LABEL.fullmatch(key))}
    offered = {match[1] for key in allocatable if (match := MIG_RESOURCE.fullmatch(key))}
    for profile in sorted(profiles | offered):
        key = f"nvidia.com/mig-{profile}"
        count = _offered(allocatable, key)
        if not count:
            notes += _unoffered(as_count(labels.get(f"{key}.count", "")), key)
            continue
        memory, more = _memory(labels, f"{key}.memory", MIB)
        notes += more
        product = labels.get(f"{key}.product") or labels.get("nvidia.com/gpu.product", "")
        match = MIG_PRODUCT.fullmatch(product.removesuffix("-SHARED"))
        found.append(
            Accelerator(
                vendor="NVIDIA",
                product=_model(match[1] if match else product, "NVIDIA"),
                count=count,
                memory_bytes=memory,
                resource=key,
                partition=profile,
                strategy="mixed",
                shared_by=_shared_by(labels, key, product, key, count, None),
                source="nvidia.com labels" if profile in profiles else "allocatable",
            )
        )
    return found, notes


def _read_amd(labels: Labels, allocatable: Mapping[str, Any]) -> Found:
    """AMD's labeller: ``amd.com/gpu.vram=191G``, and of old ``beta.amd.com/gpu.vram.16G=1`` with the count as value."""
    found, notes = [], []
    sizes, labelled = _amd_values(labels, "vram")
    memory, more = _smallest(sizes)
    products, _ = _amd_values(labels, "product-name")
    ids, _ = _amd_values(labels, "device-id")
    product = products[0] if products else f"device {ids[0]}" if ids else ""
    resources = [key for key in allocatable if AMD_RESOURCE.fullmatch(key) and _offered(allocatable, key)]
    for key in sorted(resources):
        mode = key.removeprefix("amd.com/")
        found.append(
            Accelerator(
                vendor="AMD",
                product=_model(product, "AMD"),
                count=_offered(allocatable, key),
                memory_bytes=memory,
                resource=key,
                partition="" if mode in AMD_UNPARTITIONED else mode,
                source="amd.com labels" if sizes or product else "allocatable",
            )
        )
    notes += more if found else _unoffered(labelled, "amd.com/gpu")
    return found, notes


def _amd_values(labels: Labels, name: str) -> tuple[list[str], int | None]:
    """Values of a property, sorted, and how many devices the labels tell of (None where they tell none)."""
    plain = {labels[key] for key in (f"amd.com/gpu.{name}", f"beta.amd.com/gpu.{name}") if labels.get(key)}
    prefixes = (f"amd.com/gpu.{name}.", f"beta.amd.com/gpu.{name}.")
    counted = {key.removeprefix(prefix): labels[key] for prefix in prefixes for key in labels if key.startswith(prefix)}
    total = sum(as_count(value) or 0 for value in counted.values())
    return sorted(plain | set(counted)), total or (1 if plain else None)


def _smallest(sizes: list[str]) -> tuple[int, list[str]]:
    """Bytes of the smallest of AMD's sizes, such as 191G: GiB, rounded down (``k8s-node-labeller``)."""
    read = {size: as_quantity(f"{size}i") for size in sizes if size[-1:] in ("M", "G", "T")}
    good = sorted(int(value) for value in read.values() if value and value <= LARGEST_BYTES)
    notes = [f"amd.com/gpu.vram {shorten(size)!r} is no memory size." for size in sizes if not read.get(size)]
    if len(good) > 1:
        notes.append("its AMD GPUs differ in memory: the smallest counts, as a pod cannot choose among them.")
    return (good[0] if good else 0), notes


def _read_intel(labels: Labels, allocatable: Mapping[str, Any]) -> Found:
    counts = {match[1]: as_count(labels[key]) or 0 for key in labels if (match := INTEL_DEVICE.fullmatch(key))}
    labelled = as_count(labels.get("gpu.intel.com/device.count", "")) or sum(counts.values()) or None
    product = labels.get("gpu.intel.com/product") or (f"device {min(counts)}" if counts else "")
    total, notes = _memory(labels, "gpu.intel.com/memory.max", 1)
    found = []
    for key in sorted(key for key in allocatable if INTEL_RESOURCE.fullmatch(key) and _offered(allocatable, key)):
        count = _offered(allocatable, key)
        found.append(
            Accelerator(
                vendor="Intel",
                product=_model(product, "Intel"),
                count=count,
                # The label is the sum over the node's devices.
                memory_bytes=total // (labelled or count),
                resource=key,
                shared_by=max(1, count // labelled) if labelled else 1,
                source="gpu.intel.com labels" if product else "allocatable",
            )
        )
    return found, notes if found else _unoffered(labelled, "gpu.intel.com/i915")


def _offered(allocatable: Mapping[str, Any], resource: str) -> int:
    return int(as_quantity(allocatable.get(resource)) or 0)


def _unoffered(labelled: int | None, resource: str) -> list[str]:
    if not labelled:
        return []
    devices = "device" if labelled == 1 else "devices"
    return [f"labels tell of {labelled} {devices}, but {resource} is not offered: see whether its device plugin runs."]


def _memory(labels: Labels, key: str, unit: int) -> tuple[int, list[str]]:
    """Bytes by a label in ``unit`` bytes; 0 with a note where it cannot be read."""
    if key not in labels:
        return 0, []
    given = as_count(labels[key])
    if given is None or given * unit > LARGEST_BYTES:
        unit_name = "MiB" if unit == MIB else "bytes"
        return 0, [f"{key} is {shorten(labels[key])!r}, which is no number of {unit_name}: the memory is not known."]
    return given * unit, []


def _model(product: str, vendor: str) -> str:
    """A product without its vendor: NVIDIA-A10G → A10G, AMD_Instinct_MI300X_OAM → Instinct MI300X OAM."""
    return shorten(re.sub(rf"^{vendor}[-_ ]", "", product, flags=re.IGNORECASE).replace("_", " "))
