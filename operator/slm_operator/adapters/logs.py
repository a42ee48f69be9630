"""Log files of pods: where they lie, their last lines, rotation and removal.

Processes hold the file open for appending and survive the daemon, so rotation copies and truncates.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

MAX_BYTES = 10 << 20
"""Size at which a log is rotated."""
KEPT_ROTATIONS = 3
TAIL_BYTES = 8 << 10
"""How much of the end is read for progress: many times one line."""
FALLBACK_BYTES = 2048
"""Longest tail that stands in for a missing termination message, as in Kubernetes."""


def log_path(log_dir: Path, namespace: str, pod: str) -> Path:
    """Where a pod's standard output and error go; older parts are ``0.log.1`` to ``0.log.3``."""
    return log_dir / f"{namespace}_{pod}" / "0.log"


def tail(path: Path, size_bytes: int = TAIL_BYTES) -> str:
    """The last bytes of a file as text, empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def latest_progress(path: Path) -> dict[str, Any] | None:
    """The last whole line that is a JSON object with a ``step``."""
    for line in reversed(tail(path).split("\n")[:-1]):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "step" in value:
                return value
    return None


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Copy an overgrown log aside and empty it; returns whether it did."""
    try:
        if path.stat().st_size <= max_bytes:
            return False
    except OSError:
        return False
    for number in range(KEPT_ROTATIONS, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    with path.open("r+b") as file:
        file.truncate(0)
    return True


def rotate_all(log_dir: Path) -> None:
    """Rotate every log that needs it."""
    for path in log_dir.glob("*/0.log"):
        rotate(path)


def remove_expired(log_dir: Path, pods: set[tuple[str, str]], retention_seconds: float) -> None:
    """Remove logs of pods (namespace, name) that no longer exist and wrote nothing for the retention time."""
    kept = {f"{namespace}_{name}" for namespace, name in pods}
    for path in log_dir.glob("*/0.log"):
        if path.parent.name not in kept and time.time() - path.stat().st_mtime > retention_seconds:
            shutil.rmtree(path.parent, ignore_errors=True)
