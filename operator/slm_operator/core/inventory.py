"""What nodes offer to an engine: devices, memory and CPUs, with where each fact came from."""

from dataclasses import dataclass
from decimal import Decimal

from slm_operator.core.quantity import format_bytes

SHOWN_LENGTH = 64
"""Characters of a product that are shown and kept: label values have 63 at most, what a tool prints has no bound."""


@dataclass(frozen=True, order=True)
class Accelerator:
    """Equal devices of one node, and how a pod asks for one."""

    vendor: str
    """NVIDIA, AMD, Intel or Apple; empty where nothing tells."""
    product: str
    """Model as the vendor names it, without the vendor; empty where nothing tells."""
    count: int
    """Devices that can be asked for. With ``shared_by`` above 1 several of them are the same device."""
    memory_bytes: int = 0
    """Memory of one device, bytes; 0 where nobody publishes it."""
    free_bytes: int = 0
    """Free memory of one device when it was asked, bytes; 0 where only the total is known (clusters)."""
    resource: str = ""
    """Extended resource that a pod requests, such as nvidia.com/gpu; empty for DRA and on a laptop."""
    device_class: str = ""
    """DeviceClass that a ResourceClaim names, such as gpu.nvidia.com; empty without DRA."""
    partition: str = ""
    """MIG profile such as 1g.10gb, or AMD's partition mode such as cpx_nps4; empty for a whole device."""
    strategy: str = ""
    """MIG strategy of the node, single or mixed; empty where its devices are whole."""
    shared_by: int = 1
    """Pods that time-slicing or MPS puts on one device; its memory is theirs together."""
    source: str = ""
    """Where the facts came from: ResourceSlice, label prefix, allocatable, or the tool that was asked."""

    @property
    def usable_bytes(self) -> int:
        """Memory of one device that an engine may count on, bytes; 0 where it is not known. Of a shared one, its part.

        Time-slicing bounds nobody's memory: whoever takes more ends the others.
        """
        return (self.free_bytes or self.memory_bytes) // self.shared_by

    @property
    def devices(self) -> int:
        """Devices that are not the same one: what can work on one model together.

        MIG instances do not reach each other (no peer-to-peer, NVIDIA's MIG user guide), nor is a second share of a
        device a second device.
        """
        return min(self.count, 1) if self.shared_by > 1 or (self.vendor == "NVIDIA" and self.partition) else self.count

    def __str__(self) -> str:
        """``NVIDIA A100-SXM4-40GB, MIG 1g.5gb``."""
        name = " ".join(part for part in (self.vendor, self.product) if part) or self.resource or "unknown device"
        kind = "MIG " if self.vendor == "NVIDIA" else ""
        return name + (f", {kind}{self.partition}" if self.partition else "")


@dataclass(frozen=True, order=True)
class Taint:
    """A taint that keeps pods away; of effect NoSchedule or NoExecute."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True)
class NodeFacts:
    """What one node offers."""

    name: str
    accelerators: tuple[Accelerator, ...] = ()
    memory_bytes: int = 0
    """Memory for pods (allocatable; on a laptop what is available), bytes."""
    cpus: Decimal = Decimal(0)
    """CPUs for pods."""
    architecture: str = ""
    """amd64, arm64, …; empty where it is not told."""
    taints: tuple[Taint, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be read, or looks wrong: sentences."""


@dataclass(frozen=True)
class NodeKind:
    """Nodes that offer the same."""

    nodes: tuple[str, ...]
    """Names, sorted."""
    accelerators: tuple[Accelerator, ...]
    memory_bytes: int
    """Memory for pods of the smallest of them, bytes."""
    cpus: Decimal
    """CPUs for pods of the smallest of them."""
    architecture: str
    taints: tuple[Taint, ...]

    def describe(self, accelerator: Accelerator | None = None) -> str:
        """``4 x NVIDIA A10G (3 nodes)``, or for its memory alone ``CPU nodes with 15.0 GiB (2 nodes)``."""
        nodes = self.nodes[0] if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        if accelerator is None:
            return f"CPU and {format_bytes(self.memory_bytes)} ({nodes})"
        memory = f" with {format_bytes(accelerator.usable_bytes)}" if accelerator.usable_bytes else ""
        count = f"{accelerator.devices} x " if accelerator.devices > 1 else ""
        return f"{count}{accelerator}{memory} ({nodes})"


@dataclass(frozen=True)
class Inventory:
    """Everything that is there to serve on."""

    kinds: tuple[NodeKind, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences about facts that are missing, malformed or contradictory, sorted; each once."""


def shorten(text: object) -> str:
    """A foreign text on one line and within SHOWN_LENGTH."""
    line = " ".join(str(text).split())
    return line if len(line) <= SHOWN_LENGTH else f"{line[: SHOWN_LENGTH - 1]}…"
