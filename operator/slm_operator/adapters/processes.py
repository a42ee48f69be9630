"""Start, recognise and end operating-system processes that outlive the daemon.

Each runs under a few lines of ``sh`` in a session of its own. The shell survives SIGTERM to the group, waits for its
command and leaves the exit code in a file, so that a daemon that is not the parent (any more) still learns it.
"""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from slm_operator.adapters.process_table import ProcessRecord

SHIM = """trap : TERM INT HUP
{ echo 500 >/proc/self/oom_score_adj; } 2>/dev/null
exit_file=$1; shift
"$@"
code=$?
echo "$code" >"$exit_file.tmp" && mv "$exit_file.tmp" "$exit_file"
exit "$code"
"""
"""A trap, unlike an ignored signal, is not inherited by the command. 500: under memory pressure the kernel ends our
processes before the user's desktop and before the daemon."""
POD_UID, STATE_DIR, START = "SLM_POD_UID", "SLM_STATE_DIR", "SLM_START"
SECRET_SUFFIXES = ("_TOKEN", "_SECRET", "_PASSWORD", "_KEY", "_CREDENTIALS")
"""Variables of the daemon with such names are not passed on: a process gets only the secrets its pod names."""
KILLED = 128 + signal.SIGKILL
"""Exit code of a process that vanished without leaving one: only SIGKILL (or a power cut) does that."""
SAME_START_SECONDS = 1.0
"""Two readings of one process's start time differ by less; they are compared only where environments are hidden."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Command:
    """What to start."""

    argv: list[str]
    env: dict[str, str]
    folder: Path
    """Working directory."""
    log: Path
    exit_file: Path
    cpus: float | None
    """CPU limit in cores; None for all."""


class Handle:
    """A process that was started here or adopted."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._process: psutil.Process | None = None
        if child is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process = psutil.Process(pid)

    def running(self) -> bool:
        """Whether it still runs; a zombie does not."""
        if self._child is not None:
            return self._child.poll() is None
        try:
            process = self._process
            return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def exit_code(self, exit_file: Path) -> int:
        """Exit code after the end, signals as 128 plus their number."""
        with contextlib.suppress(OSError, ValueError):
            return int(exit_file.read_text())
        # No file: the disk was full, or the shell itself was killed.
        code = self._child.returncode if self._child is not None else KILLED
        return 128 - code if code < 0 else code

    def signal_group(self, number: int) -> None:
        """Send a signal to the whole process group while its leader is alive."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def start(command: Command) -> tuple[Handle, float]:
    """Start the command; the float is its creation time. Raises OSError with a sentence when it cannot be started."""
    program = shutil.which(command.argv[0], path=command.env.get("PATH"))
    if program is None:
        raise FileNotFoundError(f"The program {command.argv[0]} was not found or may not be executed.")
    if not command.folder.is_dir():
        raise FileNotFoundError(f"The working directory {command.folder} does not exist.")
    # An absolute path also keeps the shell from taking its own built-in of that name.
    argv = ["/bin/sh", "-c", SHIM, "slm", str(command.exit_file), os.path.abspath(program), *command.argv[1:]]  # noqa: PTH100
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log, _limited(command.cpus):
        child = subprocess.Popen(
            argv,
            cwd=command.folder,
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        created = psutil.Process(child.pid).create_time()
    except psutil.NoSuchProcess:
        created = 0.0
    return Handle(child.pid, child), created


def adopt(record: ProcessRecord) -> Handle | None:
    """The running process of a record that an earlier daemon wrote, or None."""
    if record.pid:
        return Handle(record.pid) if _is_same(record) else None
    # The daemon died between the start and the record of its pid.
    wanted = f"{record.pod_uid}/{record.starts}"
    for process, env in _environments():
        if env.get(START) == wanted and os.getpgid(process.pid) == process.pid:
            return Handle(process.pid)
    return None


async def end(handle: Handle, record: ProcessRecord) -> None:
    """SIGTERM to the group, SIGKILL after its grace period, then whatever is left of the pod."""
    handle.signal_group(signal.SIGTERM)
    deadline = time.monotonic() + record.grace_seconds
    while handle.running() and time.monotonic() < deadline:  # noqa: ASYNC110 (an adopted process raises no event)
        await asyncio.sleep(POLL_SECONDS)
    sweep(record.pod_uid)
    while handle.running():  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)


def sweep(pod_uid: str) -> None:
    """Kill every process of the pod, also those that left its process group."""
    for process, env in _environments():
        if env.get(POD_UID) == pod_uid:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def private_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants without mapped files; pages shared after a fork count twice."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                total += memory.rss - getattr(memory, "shared", 0)
    return total


def kill_orphans(state_dir: Path, known: set[str]) -> int:
    """Kill processes that belong to this state folder but to no known pod; returns how many."""
    killed = 0
    for process, env in _environments():
        # Without a pod uid it is a person's shell that merely has the variable set.
        if env.get(STATE_DIR) == str(state_dir) and env.get(POD_UID, "") not in {"", *known}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                killed += 1
    return killed


def base_environment() -> dict[str, str]:
    """The daemon's environment without its secrets."""
    return {name: value for name, value in os.environ.items() if not name.upper().endswith(SECRET_SUFFIXES)}


def _environments() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            yield process, process.environ()


def _is_same(record: ProcessRecord) -> bool:
    """Whether the recorded pid is still the recorded process."""
    try:
        process = psutil.Process(record.pid)
        with contextlib.suppress(psutil.AccessDenied):
            if env := process.environ():
                return env.get(START) == f"{record.pod_uid}/{record.starts}"
        return abs(process.create_time() - record.created) < SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _limited(cpus: float | None) -> Iterator[None]:
    """Start processes on as many CPUs as the limit rounds up to: children inherit the affinity of this thread."""
    if cpus is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    busy = psutil.cpu_percent(percpu=True)
    calmest = sorted(allowed, key=lambda cpu: busy[cpu] if cpu < len(busy) else 0.0)
    os.sched_setaffinity(0, set(calmest[: max(1, math.ceil(cpus))]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
