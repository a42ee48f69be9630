"""The first difference between what is wanted and what is there: the reason for a write, or for none.

An API server answers in its own words: quantities in their shortest form, defaults filled in, empty values left out.
What means the same is no difference, so that a settled object is never written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slm_operator.core.manifests.metadata import controller_reference
from slm_operator.core.plan import Manifest, key_of
from slm_operator.core.quantity import parse_quantity

COMPARED_METADATA = ("labels", "annotations", "ownerReferences")
QUANTITIES = ("limits", "requests", "sizeLimit")
"""Fields that hold quantities, or mappings of them."""
EXACT = ("affinity", "nodeSelector", "matchLabels", "selector", "limits", "requests")
"""Mappings that are ours as a whole: an entry that is no longer wanted is a difference too. Named lists are not:
webhooks add variables and volumes to them, and taking those away would never end."""
SHOWN_LENGTH = 40
"""Characters of a value that a sentence repeats: enough to know it again."""
ABSENT = "nothing"


@dataclass(frozen=True)
class Difference:
    """One place where two manifests differ."""

    path: str
    """Such as ``template.spec.containers[engine].command[4]``."""
    found: Any
    wanted: Any
    flag: str = ""
    """The word before a word of a command line."""

    def __str__(self) -> str:
        place = self.flag if self.flag.startswith("--") else self.path
        return f"{place} changes from {_show(self.found)} to {_show(self.wanted)}"


def first_difference(wanted: Any, found: Any) -> Difference | None:
    """The first wanted value that is not there; values that only exist are nobody's business."""
    return next(_differences(wanted, found, ()), None)


def is_applied(wanted: Manifest, found: Manifest | None) -> bool:
    """Whether applying ``wanted`` would change nothing."""
    return found is not None and manifest_difference(wanted, found) is None


def manifest_difference(wanted: Manifest, found: Manifest) -> Difference | None:
    """The first difference in what an apply writes: spec, labels, annotations and owners."""
    asked = {name: wanted["metadata"][name] for name in COMPARED_METADATA if name in wanted["metadata"]}
    there = {name: found["metadata"].get(name, {}) for name in COMPARED_METADATA}
    return first_difference(wanted["spec"], found.get("spec")) or first_difference(asked, there)


def check_owner(wanted: Manifest, found: Manifest) -> str | None:
    """Why ``found`` must not be touched though it has the name that ``wanted`` needs, or None."""
    mine, theirs = controller_reference(wanted), controller_reference(found)
    if mine.get("uid") == theirs.get("uid"):
        return None
    return f"{key_of(found)} exists and belongs to somebody else: rename it or this {mine.get('kind', 'object')}."


def _differences(wanted: Any, found: Any, path: tuple[str, ...]) -> Iterator[Difference]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            yield from _differences(value, found.get(name), (*path, str(name)))
        if path and path[-1] in EXACT:
            extra = (name for name in found if name not in wanted)
            yield from (Difference(_join((*path, name)), found[name], None) for name in extra)
    elif isinstance(wanted, list) and isinstance(found, list):
        yield from _list_differences(wanted, found, path)
    elif not _is_same(wanted, found, path):
        yield Difference(_join(path), found, wanted)


def _list_differences(wanted: list[Any], found: list[Any], path: tuple[str, ...]) -> Iterator[Difference]:
    ours, theirs = _by_name(wanted), _by_name(found)
    if ours and theirs:  # Lists that the API server merges by name, in whatever order.
        for name, value in ours.items():
            yield from _differences(value, theirs.get(name), (*path, f"[{name}]"))
        return
    for index, (one, other) in enumerate(zip(wanted, found, strict=False)):
        for each in _differences(one, other, (*path, f"[{index}]")):
            flag = wanted[index - 1] if index and isinstance(wanted[index - 1], str) else ""
            yield each if each.flag else Difference(each.path, each.found, each.wanted, flag)
    if len(wanted) != len(found):
        longer, at = (wanted, len(found)) if len(wanted) > len(found) else (found, len(wanted))
        pair = (None, longer[at]) if longer is wanted else (longer[at], None)
        yield Difference(_join((*path, f"[{at}]")), *pair)


def _by_name(items: list[Any]) -> dict[str, Any]:
    """The items by their names; empty when one has none or two share one."""
    named = {item["name"]: item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
    return named if len(named) == len(items) else {}


def _is_same(wanted: Any, found: Any, path: tuple[str, ...]) -> bool:
    if wanted == found or (found is None and wanted in ({}, [], "", None)):
        return True
    if not any(name in QUANTITIES for name in path[-2:]):
        return False
    try:
        return parse_quantity(str(wanted)) == parse_quantity(str(found))
    except ValueError:
        return False


def _join(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")


def _show(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, dict | list):
        return f"{'a mapping' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = str(value)
    return text if len(text) <= SHOWN_LENGTH else f"…{text[-SHOWN_LENGTH:]}"
