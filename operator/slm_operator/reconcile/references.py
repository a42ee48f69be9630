"""Which objects name which: whoever changes is looked at, and so is whoever names it."""

from slm_operator.ports import Manifest, ObjectKey


class References:
    """Who must be looked at when an object changes, because its spec names it."""

    def __init__(self) -> None:
        self._present: dict[str, set[ObjectKey]] = {}
        self._named: dict[ObjectKey, ObjectKey] = {}
        self._dependants: dict[ObjectKey, set[ObjectKey]] = {}

    def learn(self, key: ObjectKey, manifest: Manifest | None) -> None:
        """Remember that the object is there, and what it names now; nothing when it is gone."""
        present = self._present.setdefault(key.namespace, set())
        (present.discard if manifest is None else present.add)(key)
        before, now = self._named.pop(key, None), named_by(key, manifest)
        if before is not None:
            self._dependants[before].discard(key)
            if not self._dependants[before]:
                del self._dependants[before]
        if now is not None:
            self._named[key] = now
            self._dependants.setdefault(now, set()).add(key)

    def of(self, key: ObjectKey) -> list[ObjectKey]:
        """Objects that name ``key``, directly or through a QuantJob."""
        direct = self._dependants.get(key, set())
        return sorted(direct.union(*(self._dependants.get(each, set()) for each in direct)))

    def in_namespace(self, namespace: str) -> list[ObjectKey]:
        """All objects of our kinds in a namespace."""
        return sorted(self._present.get(namespace, set()))


def named_by(key: ObjectKey, manifest: Manifest | None) -> ObjectKey | None:
    """The SLMModel or QuantJob that an object's spec refers to."""
    spec = (manifest or {}).get("spec")
    for field, kind in (("modelRef", "SLMModel"), ("quantJobRef", "QuantJob")):
        reference = spec.get(field) if isinstance(spec, dict) else None
        if isinstance(reference, dict) and isinstance(reference.get("name"), str):
            return ObjectKey(kind, key.namespace, reference["name"])
    return None
