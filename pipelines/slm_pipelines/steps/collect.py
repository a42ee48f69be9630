"""Garbage-collect the store: remove what no root reaches, and what killed steps left behind.

No other step runs meanwhile (``store_lock`` in ``slm_pipelines.store``), so whatever is not reachable is garbage.
"""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from slm_contract.results import CollectResult
from slm_contract.specs import CollectSpec
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Store

PARTIAL_SECONDS = 7 * 86400
"""How long a half-fetched file waits for its download to go on."""


def run(spec: CollectSpec, reporter: Reporter) -> CollectResult:
    """Remove unreachable blobs and snapshots, recipes whose result is gone, and scratch; the oldest downloads too."""
    store = Store(spec.store)
    reporter.report("Looking for what is in use")
    kept = store.reachable(spec.roots)

    def unreachable(paths: Iterable[Path]) -> list[Path]:
        return [path for path in paths if path.name not in kept and not is_younger(path, spec.kept_since)]

    garbage, snapshots = unreachable(store.blob_files()), unreachable(store.snapshot_folders())
    scratch = [path for path in store.scratch_entries() if is_stale(path)]
    size = sum(measure(path) for path in (*garbage, *scratch))
    if not spec.dry_run:
        _remove([*snapshots, *garbage, *scratch])
        store.forget_lost_recipes()
    return CollectResult(removed_blobs=len(garbage), removed_bytes=size, kept_blobs=len(kept))


def is_younger(path: Path, since: float) -> bool:
    """Whether a blob came, or was found to be still there, after that moment; 0 means no moment."""
    # Not mtime: a download keeps the time of its last byte, however long it waited to be moved to its place.
    return bool(since) and path.stat().st_ctime >= since


def is_stale(path: Path) -> bool:
    """Whether nobody will come back for a scratch entry; downloads are given a week."""
    if not path.name.startswith("partial-"):
        return True
    newest = max((item.stat().st_mtime for item in (path, *path.rglob("*"))), default=0.0)
    return time.time() - newest > PARTIAL_SECONDS


def measure(path: Path) -> int:
    """Bytes on disk; sparse files count what is written."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
