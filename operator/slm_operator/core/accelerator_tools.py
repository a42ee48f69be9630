"""Devices of one machine, from what its tools print: nvidia-smi, amd-smi, rocm-smi, and llama.cpp itself.

A vendor's tool knows its devices best; ``llama-bench --list-devices`` knows Metal, Vulkan and whatever else the engine
was built for. Text that is not understood becomes a note.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from slm_operator.core.accelerators import group_nodes
from slm_operator.core.inventory import Accelerator, Inventory, NodeFacts, shorten
from slm_operator.core.manifest_reading import as_count, as_list, as_mapping, as_text

MIB = 2**20
UNITS = {"B": 1, "KB": 2**10, "MB": MIB, "GB": 2**30, "MIB": MIB, "GIB": 2**30}
"""What amd-smi calls MB are MiB: an MI300X has 196,592 of them."""
NVIDIA_SMI_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader")
"""Arguments whose output ``read_nvidia_smi`` reads."""
VENDORS = {
    "NVIDIA": re.compile(r"nvidia|geforce|quadro|tesla|\brtx\b", re.IGNORECASE),
    "AMD": re.compile(r"\bamd\b|radeon|instinct|\bgfx\d", re.IGNORECASE),
    "Intel": re.compile(r"intel|\barc\b", re.IGNORECASE),
    "Apple": re.compile(r"\bapple\b", re.IGNORECASE),
}
LLAMA_DEVICE = re.compile(r"^\s*([A-Za-z]+)(\d*): (.+?) \((\d{1,12}) MiB, (\d{1,12}) MiB free\)\s*$")
"""A line of ``--list-devices`` (common/arg.cpp, tools/llama-bench/llama-bench.cpp of llama.cpp)."""
JSON_START = re.compile(r"[\[{]")

Found = tuple[list[Accelerator], list[str]]


def read_machine(outputs: Mapping[str, str], *, memory_bytes: int, cpus: int, name: str = "this machine") -> Inventory:
    """The inventory of a machine, of ``outputs`` by tool (a key of TOOLS) and what ``psutil`` counts.

    ``memory_bytes`` is what is available. Of each vendor the first tool in the order of TOOLS counts that tells of it.
    """
    found: list[Accelerator] = []
    notes: list[str] = []
    for tool, read in TOOLS.items():
        devices, more = read(outputs[tool]) if tool in outputs else ([], [])
        known = {item.vendor for item in found}
        found += [item for item in devices if item.vendor not in known]
        notes += [f"{tool}: {note}" for note in more]
    facts = NodeFacts(name=name, accelerators=tuple(sorted(found)), memory_bytes=memory_bytes, cpus=Decimal(cpus))
    return group_nodes([facts], notes)


def read_nvidia_smi(text: str) -> Found:
    """Devices of ``nvidia-smi`` with NVIDIA_SMI_QUERY: ``NVIDIA A10G, 23028 MiB, 22515 MiB``.

    A device that shares the machine's memory (Jetson, GB10) prints ``[N/A]``.
    """
    found, notes = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, *sizes = (part.strip() for part in line.rsplit(",", 2))
        if len(sizes) != 2:  # noqa: PLR2004 (total and free, as asked for)
            notes.append(f"line {shorten(line)!r} is not understood.")
            continue
        total, free = map(_mebibytes, sizes)
        found.append(_device("NVIDIA", name, total, free, "nvidia-smi"))
    return _count(found), notes


def read_amd_smi(text: str) -> Found:
    """Devices of ``amd-smi static --asic --vram --json``, whose list stands below ``gpu_data`` since ROCm 6.4."""
    data, notes = _parse(text)
    items = as_list(data if isinstance(data, list) else as_mapping(data).get("gpu_data"))
    found = []
    for item in map(as_mapping, items):
        size = as_mapping(as_mapping(item.get("vram")).get("size"))
        unit = UNITS.get(as_text(size.get("unit")).upper(), 0)
        name = as_text(as_mapping(item.get("asic")).get("market_name"))
        found.append(_device("AMD", name, (as_count(size.get("value")) or 0) * unit, 0, "amd-smi"))
    return _count(found), notes


def read_rocm_smi(text: str) -> Found:
    """Devices of ``rocm-smi --showproductname --showmeminfo vram --json``; capitals differ between releases."""
    data, notes = _parse(text)
    found = []
    for key, item in as_mapping(data).items():
        if not key.startswith("card"):
            continue
        card = {name.lower(): as_text(value) for name, value in as_mapping(item).items()}
        total, used = (as_count(card.get(f"vram total {word}(b)", "")) or 0 for word in ("memory ", "used memory "))
        name = card.get("card series") or card.get("device name") or card.get("card model", "")
        found.append(_device("AMD", name, total, max(total - used, 0), "rocm-smi"))
    return _count(found), notes


def read_llama_devices(text: str) -> Found:
    """Devices of ``llama-bench --list-devices``: ``Vulkan0: NVIDIA GeForce RTX 4060 (7957 MiB, 7189 MiB free)``.

    One device may be listed by several backends; the first of them counts. Entries without memory (BLAS) are no
    devices.
    """
    matches = [match for line in text.splitlines() if (match := LLAMA_DEVICE.match(line)) and int(match[4])]
    backend_of: dict[str, str] = {}
    found = []
    for match in matches:
        backend, name = match[1], match[3]
        if backend_of.setdefault(name, backend) == backend and backend != "RPC":
            total, free = int(match[4]) * MIB, int(match[5]) * MIB
            found.append(_device(_vendor(name), name, total, free, f"llama.cpp {backend}"))
    listed = "Available devices" in text or not text.strip()
    return _count(found), [] if listed else ["no list of devices is printed."]


TOOLS: Mapping[str, Callable[[str], Found]] = {
    "nvidia-smi": read_nvidia_smi,
    "amd-smi": read_amd_smi,
    "rocm-smi": read_rocm_smi,
    "llama.cpp": read_llama_devices,
}
"""Tool to what reads its output, in the order of trust."""


def _parse(text: str) -> tuple[Any, list[str]]:
    """JSON after whatever warnings stand before it, as both of AMD's tools print them."""
    for start in JSON_START.finditer(text):
        try:
            return json.JSONDecoder().raw_decode(text, start.start())[0], []
        except (ValueError, RecursionError):
            continue
    return None, [f"{shorten(text)!r} is no JSON."]


def _device(vendor: str, name: str, total: int, free: int, source: str) -> Accelerator:
    product = shorten(re.sub(rf"^{vendor}[ _]", "", name.strip(), flags=re.IGNORECASE) if vendor else name.strip())
    free = min(free, total) if total else free
    return Accelerator(vendor, product, 1, total, free, source=source)


def _vendor(name: str) -> str:
    return next((vendor for vendor, pattern in VENDORS.items() if pattern.search(name)), "")


def _mebibytes(text: str) -> int:
    return (as_count(text.removesuffix("MiB")) or 0) * MIB


def _count(devices: Iterable[Accelerator]) -> list[Accelerator]:
    """Equal devices as one entry; of their free memory the least counts, as work is split evenly."""
    groups: dict[Accelerator, list[int]] = {}
    for device in devices:
        groups.setdefault(replace(device, free_bytes=0), []).append(device.free_bytes)
    return sorted(replace(item, count=len(free), free_bytes=min(free)) for item, free in groups.items())
