"""Which engine takes a request: consistent hashing with bounded loads on the prompt's beginning.

Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv 1608.01350). Requests with a common
beginning meet an engine that has it cached, unless that engine has more than its share to do already. Requests without
one go where least is in flight.
"""

from bisect import bisect
from collections.abc import Mapping
from hashlib import blake2b
from math import ceil

LOAD_FACTOR = 1.25
"""The most an engine may have, as a multiple of the mean; KubeAI's default, which its measurements are for."""
POINTS = 64
"""Places on the ring per engine: shares differ by about an eighth of the mean then."""


def hash_of(text: str) -> int:
    """64 bits that are the same in every process: all replicas of the gateway send a conversation to one engine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


class Ring:
    """The engines of one service on a circle of hashes, with the slots that each has."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._slots = slots
        points = sorted((hash_of(f"{number}/{each}"), each) for each in slots for number in range(POINTS))
        self._hashes = [point for point, _ in points]
        self._ids = [each for _, each in points]

    def choose(self, prefix: str, loads: Mapping[str, int]) -> str | None:
        """The engine for a prompt: of those in ``loads``, which tells what each has in flight. None: all are full.

        What an engine's share is, and which one is the least loaded, is in proportion to its slots.
        """
        slots = self._slots
        if prefix and len(loads) > 1:
            most, all_slots = LOAD_FACTOR * (sum(loads.values()) + 1), sum(map(slots.__getitem__, loads))
            start = bisect(self._hashes, hash_of(prefix))
            for step in range(len(self._ids)):
                each = self._ids[(start + step) % len(self._ids)]
                own = slots[each]
                if loads.get(each, own) < min(ceil(most * own / all_slots), own):
                    return each
        free = [each for each, load in loads.items() if load < slots[each]]
        return min(free, key=lambda each: loads[each] / slots[each], default=None)
