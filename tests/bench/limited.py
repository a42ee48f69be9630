"""A CPU limit as a container has it: a control group with a quota, version 1 or 2; only root can make one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
"""Kubernetes' and Docker's."""
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@contextmanager
def cpu_limit(cores: float) -> Iterator[list[str]]:
    """What to put before a command so that it has so many cores; raises OSError where no group can be made."""
    quota = int(cores * PERIOD_MICROSECONDS)
    first_version = (ROOT / "cpu").is_dir()
    group = (ROOT / "cpu" if first_version else ROOT) / f"slm-bench-{os.getpid()}"
    group.mkdir()
    try:
        if first_version:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
        yield ["sh", "-c", ENTER, str(group)]
    finally:
        group.rmdir()
