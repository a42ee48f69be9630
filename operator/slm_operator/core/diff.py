"""The first difference between what is wanted and what is there: the reason for a write, or for none."""

from typing import Any

from slm_operator.core.plan import Manifest

COMPARED_METADATA = ("labels", "annotations", "ownerReferences")


def first_difference(wanted: Any, found: Any, path: str = "") -> str | None:
    """Path of the first wanted value that is not there; values that only exist are nobody's business."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            place = f"{path}.{name}" if path else str(name)
            if name not in found:
                return place
            difference = first_difference(value, found[name], place)
            if difference is not None:
                return difference
        return None
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        differences = (first_difference(one, other, f"{path}[{index}]") for index, (one, other) in pairs)
        return next((item for item in differences if item is not None), None)
    return None if wanted == found else path


def is_applied(wanted: Manifest, found: Manifest | None) -> bool:
    """Whether applying ``wanted`` would change nothing."""
    if found is None:
        return False
    there = {name: found["metadata"].get(name, {}) for name in COMPARED_METADATA}
    asked = {name: wanted["metadata"][name] for name in COMPARED_METADATA if name in wanted["metadata"]}
    return first_difference(asked, there) is None and first_difference(wanted["spec"], found.get("spec")) is None
