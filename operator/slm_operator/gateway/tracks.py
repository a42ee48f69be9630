"""Which of a service's requests go to its canary: a given share of them, whole conversations where that can be."""

from collections.abc import Iterable, Mapping

from slm_operator.gateway.balance import Ring, hash_of
from slm_operator.gateway.directory import Endpoint

AHEAD = 8.0
"""Requests by which the canary may be ahead of its share: as long as it is not, conversations stay where they began.
An engine that has their beginning cached answers sooner, and so would look better than one that has not."""


class Split:
    """Keeps the share of one service: never less than it by a whole request, nor more by AHEAD."""

    def __init__(self) -> None:
        self._owed = 0.0
        # Requests that the canary has yet to get; those it is ahead by are negative.

    def wants(self, prefix: str, percent: int) -> bool:
        """Whether the next request is the canary's. A conversation that is stays so while the share grows."""
        if not percent:
            return False
        owed = self._owed + percent / 100
        return owed >= 1.0 or (owed > 1.0 - AHEAD and bool(prefix) and hash_of(f"canary/{prefix}") % 100 < percent)

    def count(self, percent: int, *, canary: bool) -> None:
        """A request went there. What the canary had no room for is not made up for later."""
        self._owed = min(1.0, self._owed + percent / 100 - canary)


class Tracks:
    """The engines of one service: those that are tried, and all others."""

    def __init__(self) -> None:
        self._split = Split()
        self._ring = Ring({})
        self._canaries: frozenset[str] = frozenset()
        self._alone = False

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """These are the engines now."""
        engines = list(endpoints)
        self._ring = Ring({each.id: each.slots for each in engines})
        self._canaries = frozenset(each.id for each in engines if each.canary)
        self._alone = len(self._canaries) == len(engines)

    def choose(
        self, prefix: str, loads: Mapping[str, int], percent: int, *, again: bool, able: frozenset[str] | None = None
    ) -> str | None:
        """The engine for a prompt, as ``Ring.choose``.

        A request that finds no room at the canary, or that an engine has failed already (``again``), is the others';
        where there are no others, or none of those that are ``able`` to answer it, all are the canary's. While
        there are others, a canary that is to get nothing gets none of these, either.
        """
        if not self._canaries or self._alone:
            return self._ring.choose(prefix, loads)
        if able is not None and able <= self._canaries:
            return self._ring.choose(prefix, loads) if percent else None
        name = None
        if not again and self._split.wants(prefix, percent):
            tried = {each: load for each, load in loads.items() if each in self._canaries}
            name = self._ring.choose(prefix, tried)
        canary = name is not None
        if name is None:
            others = {each: load for each, load in loads.items() if each not in self._canaries}
            name = self._ring.choose(prefix, others)
        if name is not None and not again:
            self._split.count(percent, canary=canary)
        return name
