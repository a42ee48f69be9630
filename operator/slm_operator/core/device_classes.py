"""By what name pods ask for devices: extended resources, and the DeviceClasses that are there."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from slm_operator.core.accelerator_slices import DRIVERS, MIG_CLASS
from slm_operator.core.inventory import Accelerator, Inventory
from slm_operator.core.manifest_reading import as_list, as_mapping, as_text
from slm_operator.core.plan import Manifest

Classes = Mapping[str, str]
"""Name of each DeviceClass to the driver whose devices it selects; empty where that is none of ours, or not told."""
OF_DRIVERS: Classes = {**{driver: driver for driver in DRIVERS}, MIG_CLASS: "gpu.nvidia.com"}
"""The classes that come with the drivers; where DeviceClasses cannot be read, they are taken to be there."""
PREFIX = "deviceclass/"
"""Before the name of a DeviceClass in spec.accelerator, where no resource has such a domain."""
DRIVER = re.compile(r"""device\.driver\s*==\s*["']([^"']+)["']""")


def read_classes(manifests: Iterable[Manifest]) -> Classes:
    """The DeviceClasses that are there. One that is somebody's own tells its driver in the usual comparison."""
    found = {}
    for manifest in manifests:
        name = as_text(as_mapping(manifest.get("metadata")).get("name"))
        selectors = as_list(as_mapping(manifest.get("spec")).get("selectors"))
        words = " ".join(as_text(as_mapping(as_mapping(item).get("cel")).get("expression")) for item in selectors)
        named = {driver for driver in DRIVER.findall(words) if driver in DRIVERS}
        found[name] = OF_DRIVERS.get(name) or (named.pop() if len(named) == 1 else "")
    return found


def find_device_class(asked: str) -> str:
    """The DeviceClass that spec.accelerator names; empty where it names none."""
    return asked.removeprefix(PREFIX) if asked.startswith(PREFIX) else ""


def keep_askable(inventory: Inventory, asked: str, classes: Classes) -> Inventory:
    """The inventory without devices that pods cannot ask for by the name ``asked``, or, where it is empty, by any."""
    kinds = []
    for kind in inventory.kinds:
        named = (_ask_for(item, asked, classes) for item in kind.accelerators)
        kinds.append(replace(kind, accelerators=tuple(item for item in named if item is not None)))
    return replace(inventory, kinds=tuple(kinds))


def _ask_for(item: Accelerator, asked: str, classes: Classes) -> Accelerator | None:
    """The devices by the name that is asked for, if they have it."""
    if not asked:
        return item if item.resource or item.device_class in classes else None
    name = find_device_class(asked)
    if not name or name in OF_DRIVERS:
        return item if (item.device_class == name and name in classes) or item.resource == asked else None
    # A class of somebody's own may select any of its driver's; which ones, the scheduler finds out.
    return replace(item, device_class=name) if item.device_class and item.device_class == classes.get(name) else None


def find_absent(inventory: Inventory, asked: str, classes: Classes) -> list[str]:
    """DeviceClasses, among those that are asked for, of devices that are there while the class is not."""
    missing = {item.device_class for kind in inventory.kinds for item in kind.accelerators} - {""} - set(classes)
    return sorted(name for name in missing if asked in ("", f"{PREFIX}{name}"))
