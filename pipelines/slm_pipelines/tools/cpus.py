"""How many threads pay off: the CPUs this process may really use.

llama.cpp looks at the machine and not at the cgroup quota; in a container limited to 2 of 64 CPUs it
then starts 64 threads that wait for each other.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def _groups(listing: str, controller: str) -> Iterator[PurePosixPath]:
    """The cgroup of ``controller`` (empty: version 2) in ``/proc/self/cgroup``, then its ancestors."""
    for line in listing.splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            relative = PurePosixPath(path.lstrip("/"))
            yield from (relative, *relative.parents)


def _version_2_quota(folder: Path) -> float:
    """CPUs that ``cpu.max`` (``quota period`` in microseconds, or ``max period``) allows."""
    quota, period = (folder / "cpu.max").read_text().split()
    return float("inf") if quota == "max" else int(quota) / int(period)


def _version_1_quota(folder: Path) -> float:
    """CPUs that the CFS quota allows; -1 means no quota."""
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return float("inf") if quota < 0 else quota / period


def _quota(proc: Path, cgroups: Path) -> float:
    """The tightest quota of this process's cgroup and its ancestors; infinity without one."""
    try:
        listing = (proc / "self" / "cgroup").read_text()
    except OSError:
        return float("inf")
    places = [(cgroups / group, _version_2_quota) for group in _groups(listing, "")]
    places += [(cgroups / "cpu" / group, _version_1_quota) for group in _groups(listing, "cpu")]
    quotas = [float("inf")]
    for folder, read in places:
        try:
            quotas.append(read(folder))
        except (OSError, ValueError):  # A group that this mount does not show sets no quota we could read.
            continue
    return min(quotas)


def cpu_threads(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs by affinity and by cgroup quota (rounded down), whichever is less; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, _quota(proc, cgroups))))
