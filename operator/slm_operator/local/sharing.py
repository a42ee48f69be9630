"""Which state folders keep their models in a store: what any of them refers to, is spared when it is collected."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from slm_operator.local.paths import LocalPaths


def join_store(paths: LocalPaths) -> None:
    """Make known that this state folder's objects refer to the store; raises OSError."""
    state = str(paths.state.resolve())
    paths.states.mkdir(parents=True, exist_ok=True, mode=0o700)
    (paths.states / hashlib.sha256(state.encode()).hexdigest()).write_text(state, encoding="utf-8")


def find_others(paths: LocalPaths) -> Iterator[Path]:
    """The database of every other state folder that shares the store and is still there."""
    for known in sorted(paths.states.iterdir()) if paths.states.is_dir() else ():
        other = LocalPaths(Path(known.read_text(encoding="utf-8")), paths.data, paths.cache)
        if other.state != paths.state.resolve() and other.database.exists():
            yield other.database
