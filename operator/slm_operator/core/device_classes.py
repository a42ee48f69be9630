"""By what name pods ask for devices: extended resources, and the DeviceClasses that are there."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from slm_operator.core.accelerator_slices import DRIVERS, MIG_CLASS
from slm_operator.core.inventory import Accelerator, Inventory
from slm_operator.core.manifest_reading import as_list, as_mapping, as_text
from slm_operator.core.plan import Manifest


@dataclass(frozen=True)
class DeviceClass:
    """What is known of a DeviceClass."""

    driver: str
    """Whose devices it selects; empty where that is none of ours, or not told."""
    resource: str = ""
    """Extended resource that it stands for (``extendedResourceName``), such as nvidia.com/gpu."""


Classes = Mapping[str, DeviceClass]
"""By name."""
OF_DRIVERS: Classes = {
    **{driver: DeviceClass(driver) for driver in DRIVERS},
    MIG_CLASS: DeviceClass("gpu.nvidia.com"),
}
"""The classes that come with the drivers; where DeviceClasses cannot be read, they are taken to be there."""
PREFIX = "deviceclass/"
"""Before the name of a DeviceClass in spec.accelerator, where no resource has such a domain."""
DRIVER = re.compile(r"""device\.driver\s*==\s*["']([^"']+)["']""")


def read_classes(manifests: Iterable[Manifest]) -> Classes:
    """The DeviceClasses that are there. One that is somebody's own tells its driver in the usual comparison."""
    found = {}
    for manifest in manifests:
        name, spec = as_text(as_mapping(manifest.get("metadata")).get("name")), as_mapping(manifest.get("spec"))
        selectors = [as_mapping(as_mapping(item).get("cel")) for item in as_list(spec.get("selectors"))]
        words = " ".join(as_text(each.get("expression")) for each in selectors)
        drivers = {driver for driver in DRIVER.findall(words) if driver in DRIVERS}
        known = OF_DRIVERS.get(name) or DeviceClass(drivers.pop() if len(drivers) == 1 else "")
        found[name] = replace(known, resource=as_text(spec.get("extendedResourceName")))
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
    if item.resource:
        return item if asked in ("", item.resource) else None
    if not asked:
        return item if item.device_class in classes else None
    named = find_device_class(asked)
    names = [named] if named else sorted(name for name, each in classes.items() if each.resource == asked)
    return next((found for name in names if (found := _claim_by(item, name, classes))), None)


def _claim_by(item: Accelerator, name: str, classes: Classes) -> Accelerator | None:
    known = classes.get(name)
    if known is None or not item.device_class:
        return None
    if name in OF_DRIVERS:
        return item if item.device_class == name else None
    # A class of somebody's own may select any of its driver's; which ones, the scheduler finds out.
    return replace(item, device_class=name) if item.device_class == known.driver else None


def find_absent(inventory: Inventory, asked: str, classes: Classes) -> list[str]:
    """DeviceClasses, among those that are asked for, of devices that are there while the class is not."""
    missing = {item.device_class for kind in inventory.kinds for item in kind.accelerators} - {""} - set(classes)
    return sorted(name for name in missing if asked in ("", f"{PREFIX}{name}"))
