"""Which objects name which: whoever changes is looked at, and so is whoever names it."""

from collections.abc import Iterator
from typing import Any

from slm_operator.ports import Manifest, ObjectKey

REFERENCES = {
    **dict.fromkeys(("modelRef", "draftModelRef", "projectorRef"), "SLMModel"),
    "quantJobRef": "QuantJob",
}
"""Field to the kind of what it names, wherever in a spec it stands."""


class References:
    """Who must be looked at when an object changes, because its spec names it."""

    def __init__(self) -> None:
        self._present: dict[str, set[ObjectKey]] = {}
        self._named: dict[ObjectKey, set[ObjectKey]] = {}
        self._dependants: dict[ObjectKey, set[ObjectKey]] = {}

    def learn(self, key: ObjectKey, manifest: Manifest | None) -> None:
        """Remember that the object is there, and what it names now; nothing when it is gone."""
        present = self._present.setdefault(key.namespace, set())
        (present.discard if manifest is None else present.add)(key)
        before, now = self._named.pop(key, set()), named_by(key, manifest)
        for each in before - now:
            self._dependants[each].discard(key)
            if not self._dependants[each]:
                del self._dependants[each]
        for each in now:
            self._dependants.setdefault(each, set()).add(key)
        if now:
            self._named[key] = now

    def of(self, key: ObjectKey) -> list[ObjectKey]:
        """Objects that name ``key``, directly or through a QuantJob."""
        direct = self._dependants.get(key, set())
        return sorted(direct.union(*(self._dependants.get(each, set()) for each in direct)))

    def in_namespace(self, namespace: str) -> list[ObjectKey]:
        """All objects of our kinds in a namespace."""
        return sorted(self._present.get(namespace, set()))


def named_by(key: ObjectKey, manifest: Manifest | None) -> set[ObjectKey]:
    """SLMModels and QuantJobs that an object's spec refers to."""
    return {ObjectKey(kind, key.namespace, name) for kind, name in _find_references((manifest or {}).get("spec"))}


def _find_references(part: Any) -> Iterator[tuple[str, str]]:
    """Kind and name of each reference in a part of a spec."""
    for field, value in part.items() if isinstance(part, dict) else ():
        name = value.get("name") if isinstance(value, dict) else None
        if field in REFERENCES and isinstance(name, str):
            yield REFERENCES[field], name
        yield from _find_references(value)
    for value in part if isinstance(part, list) else ():
        yield from _find_references(value)
