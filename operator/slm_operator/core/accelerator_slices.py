"""Devices that DRA drivers publish: ResourceSlices of NVIDIA, AMD and Intel.

Attributes and capacities as in kubernetes-sigs/dra-driver-nvidia-gpu, ROCm/k8s-gpu-dra-driver and
intel/intel-resource-drivers-for-kubernetes. A driver's attribute may be written with or without its domain, and in
``v1beta1`` the device's content stands below ``basic``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from slm_operator.core.inventory import Accelerator, shorten
from slm_operator.core.manifest_reading import as_list, as_mapping, as_quantity, as_text
from slm_operator.core.plan import Manifest

DRIVERS = {"gpu.nvidia.com": "NVIDIA", "gpu.amd.com": "AMD", "gpu.intel.com": "Intel"}
"""Driver to vendor; its DeviceClass has the driver's name."""
DRIVER_OF = {vendor: driver for driver, vendor in DRIVERS.items()}
MIG_CLASS = "mig.nvidia.com"
"""DeviceClass of MIG devices in NVIDIA's driver."""
PROFILES = {"gpu.nvidia.com": "profile", "gpu.amd.com": "partitionProfile"}
"""Driver to the attribute that names a device's partition."""
WHOLE = ("", "spx_nps1")
"""Partition profiles that are the whole device: AMD's driver names the mode of an unpartitioned GPU too."""

Pool = tuple[str, str]
"""Driver and name: what a generation counts for."""


def read_slices(slices: Iterable[Manifest]) -> tuple[dict[str, list[Accelerator]], list[str]]:
    """Node name to its devices, equal ones counted together, and notes.

    Only the newest generation of a pool counts, and a pool with slices still missing is told of: both as the API's
    documentation asks of consumers.
    """
    pools: dict[Pool, list[Mapping[str, Any]]] = {}
    for manifest in slices:
        spec = as_mapping(manifest.get("spec"))
        pool = as_text(as_mapping(spec.get("pool")).get("name"))
        if as_text(spec.get("driver")) in DRIVERS:
            pools.setdefault((as_text(spec.get("driver")), pool), []).append(spec)
    found: dict[str, list[Accelerator]] = {}
    notes: list[str] = []
    for (driver, pool), specs in sorted(pools.items()):
        newest = max(_generation(spec) for spec in specs)
        current = [spec for spec in specs if _generation(spec) == newest]
        notes += _incomplete(driver, pool, current)
        for node, devices in _by_node(current).items():
            counted, more = _count(driver, devices)
            found.setdefault(node, []).extend(counted)
            notes += [f"Node {node}: {note}" for note in more]
    if "" in found:
        notes.append("Devices that more than one node can reach are left out: an engine's GPUs must be of its node.")
        del found[""]
    return found, notes


def _generation(spec: Mapping[str, Any]) -> int:
    given = as_mapping(spec.get("pool")).get("generation")
    return given if isinstance(given, int) else 0


def _incomplete(driver: str, pool: str, specs: list[Mapping[str, Any]]) -> list[str]:
    wanted = as_mapping(specs[0].get("pool")).get("resourceSliceCount")
    if not isinstance(wanted, int) or wanted <= len(specs):
        return []
    return [
        f"Pool {shorten(pool)} of {driver} has {len(specs)} of {wanted} ResourceSlices: its devices are not all known."
    ]


def _by_node(specs: list[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for spec in specs:
        for item in as_list(spec.get("devices")):
            device = as_mapping(item)
            content = {**as_mapping(device.get("basic")), **device}
            node = as_text(spec.get("nodeName") or content.get("nodeName"))
            found.setdefault(node, []).append(content)
    return found


def _count(driver: str, devices: list[Mapping[str, Any]]) -> tuple[list[Accelerator], list[str]]:
    """Equal devices counted; those that are tainted or already cut into partitions are left out."""
    cut = {_attribute(driver, device, "parentUUID", "parentDeviceID") for device in devices} - {""}
    counts: dict[Accelerator, int] = {}
    notes = []
    for device in devices:
        if any(
            as_mapping(taint).get("effect") in ("NoSchedule", "NoExecute") for taint in as_list(device.get("taints"))
        ):
            notes.append(f"device {shorten(device.get('name', ''))} is tainted by its driver and left out.")
        elif not _is_cut(driver, device, cut):
            accelerator = _accelerator(driver, device)
            counts[accelerator] = counts.get(accelerator, 0) + 1
    return [replace(item, count=count) for item, count in sorted(counts.items())], notes


def _is_cut(driver: str, device: Mapping[str, Any], cut: set[str]) -> bool:
    """Whether the device only exists as its partitions: NVIDIA's driver publishes the whole GPU beside them.

    https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu/issues/719. Partitions that are made on demand share
    counters with their GPU, and then the scheduler sees to it that only one of the two is given away.
    """
    return _attribute(driver, device, "uuid", "deviceID") in cut and not as_list(device.get("consumesCounters"))


def _accelerator(driver: str, device: Mapping[str, Any]) -> Accelerator:
    vendor = DRIVERS[driver]
    mig = _attribute(driver, device, "type") == "mig"
    profile = _attribute(driver, device, PROFILES[driver]) if driver in PROFILES else ""
    model = " ".join(_attribute(driver, device, name) for name in ("family", "model")) if vendor == "Intel" else ""
    product = _attribute(driver, device, "productName") or model.replace("Unknown", "").strip()
    if not product:
        product = f"device {_attribute(driver, device, 'pciId', 'deviceID')}".strip()
    return Accelerator(
        vendor=vendor,
        product=shorten(product.replace("_", " ").removeprefix(vendor).strip()),
        count=1,
        memory_bytes=int(_capacity(driver, device, "memory")),
        device_class=MIG_CLASS if mig else driver,
        partition="" if profile in WHOLE else shorten(profile),
        source="ResourceSlice",
    )


def _attribute(driver: str, device: Mapping[str, Any], *names: str) -> str:
    """The first of the attributes that is there, as text."""
    attributes = as_mapping(device.get("attributes"))
    for name in names:
        value = as_mapping(attributes.get(name) or attributes.get(f"{driver}/{name}"))
        text = next((as_text(value[kind]) for kind in ("string", "version", "int") if kind in value), "")
        if text:
            return text
    return ""


def _capacity(driver: str, device: Mapping[str, Any], name: str) -> int:
    given = as_mapping(device.get("capacity"))
    value = given.get(name, given.get(f"{driver}/{name}"))
    return int(as_quantity(as_mapping(value).get("value", value)) or 0)
