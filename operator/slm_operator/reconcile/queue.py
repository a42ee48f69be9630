"""A keyed work queue: repeats collapse, one worker per key, back-off per key on failure.

After client-go's workqueue: a key that is added while it is worked on is worked on once more afterwards.
"""

import asyncio
from collections import deque

from slm_operator.ports import ObjectKey

BASE_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 60.0
"""Longest back-off: a fault that lasts is looked at once a minute."""


class KeyedQueue:
    """Keys to look at. Not thread-safe: it belongs to one event loop."""

    def __init__(self) -> None:
        self._ready: deque[ObjectKey] = deque()
        self._waiting: set[ObjectKey] = set()
        self._working: dict[ObjectKey, float] = {}
        # With the time since when, for whoever asks whether work is stuck.
        self._again: set[ObjectKey] = set()
        self._failures: dict[ObjectKey, int] = {}
        self._timers: dict[ObjectKey, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def add(self, key: ObjectKey) -> None:
        """Look at the key soon; while it is being worked on, once more afterwards."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: ObjectKey, seconds: float) -> None:
        """Look at the key after a delay; an earlier timer of the same key wins."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)

    def _fire(self, key: ObjectKey) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def take(self) -> ObjectKey:
        """The next key; it must be given back with ``done`` or ``failed``."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: ObjectKey) -> None:
        """The work succeeded."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: ObjectKey, at_least: float = 0.0) -> float:
        """The work failed; the key comes back after the returned seconds, no earlier than ``at_least``."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay: float = max(at_least, min(BASE_DELAY_SECONDS * 2 ** min(count, 16), MAX_DELAY_SECONDS))
        self._release(key)
        self.add_after(key, delay)
        return delay

    def _release(self, key: ObjectKey) -> None:
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def longest(self) -> tuple[ObjectKey, float] | None:
        """The key that has been worked on longest, and for how many seconds.

        Keys that wait say nothing: many that are slow make the last one wait, and a new start would put it last again.
        """
        since = min(self._working.items(), key=lambda item: item[1], default=None)
        return None if since is None else (since[0], asyncio.get_running_loop().time() - since[1])

    def __len__(self) -> int:
        return len(self._ready) + len(self._working)
