"""A process that may run once per state folder holds a file locked, and writes into it what others want to know.

The lock decides, not the process id: the kernel frees it however the process ends, so there is no stale state.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.05


class Held(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: Path, patience_seconds: float) -> Iterator[Callable[..., None]]:
    """The lock; the value writes words into its file. Raises Held.

    Whoever only reads the words holds it too, shared and for microseconds: that long it is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+", encoding="ascii") as file:
        deadline = time.monotonic() + patience_seconds
        while not _try_lock(file.fileno(), fcntl.LOCK_EX):
            # A lock that cannot even be shared is held: to wait for its end would be to start a second process.
            probed = _try_lock(file.fileno(), fcntl.LOCK_SH)
            fcntl.flock(file, fcntl.LOCK_UN)
            if not probed or time.monotonic() > deadline:
                raise Held
            time.sleep(POLL_SECONDS)

        def write(*words: object) -> None:
            file.truncate(0)
            file.write(" ".join(map(str, words)))
            file.flush()

        yield write


def read(path: Path) -> list[str] | None:
    """Words of the lock file while somebody holds it, else None."""
    try:
        with path.open(encoding="ascii") as file:
            return None if _try_lock(file.fileno(), fcntl.LOCK_SH) else file.read().split()
    except FileNotFoundError:
        return None


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
