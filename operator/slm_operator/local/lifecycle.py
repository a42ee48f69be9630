"""Start the daemon in the background, see whether it runs, stop it.

The lock decides, not the process id: the kernel frees it however the daemon ends, so there is no stale state.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from slm_operator.errors import ClusterUnavailable, DaemonRunning
from slm_operator.local import locks
from slm_operator.local.paths import LocalPaths

DAEMON_COMMAND = (sys.executable, "-m", "slm_operator.local.daemon")
EXIT_RUNNING: Final = 5
"""The daemon's and the gateway's exit code when another one holds the state folder, and the gateway's when the daemon
that started it has ended."""
EXIT_MALFORMED: Final = 2
"""The daemon's and the gateway's exit code when settings, folders or the port cannot be used."""
POLL_SECONDS = 0.05
PROBE_PATIENCE_SECONDS = 1.0
"""How long a starting daemon waits for the lock: `slm status` holds it shared for microseconds."""
SHOWN_LOG_BYTES = 2000
MAX_LOG_BYTES = 10 << 20
"""Size above which a log is put aside at the next start; one older log is kept."""
READY = "ready"
"""Second word of the lock file once the daemon heeds signals and works on objects. Then come the port to which the
gateway reports, and what it must say there."""


@contextlib.contextmanager
def hold_lock(paths: LocalPaths) -> Iterator[Callable[[int, str], None]]:
    """Be the only daemon of this state folder; raises DaemonRunning. The value announces that it works, and where."""
    with _hold(paths) as write:
        write(os.getpid())
        yield lambda port, token: write(os.getpid(), READY, port, token)


@contextlib.contextmanager
def hold_daemonless(paths: LocalPaths) -> Iterator[None]:
    """Keep daemons from starting while a command does one's work; raises DaemonRunning.

    Others see a daemon that is just starting: they wait, as there is no process id that they could signal.
    """
    with _hold(paths) as write:
        write()
        yield


@contextlib.contextmanager
def _hold(paths: LocalPaths) -> Iterator[Callable[..., None]]:
    """The lock; the value writes words into its file."""
    try:
        with locks.hold(paths.lock, PROBE_PATIENCE_SECONDS) as write:
            yield write
    except locks.Held:
        pid = running_pid(paths)
        raise DaemonRunning(
            f"Another daemon (process {pid}) holds {paths.state}: stop it with `slm down`, "
            "or use another folder with SLM_STATE_HOME."
        ) from None


def running_pid(paths: LocalPaths) -> int | None:
    """Process id of the running daemon; None when nobody holds the lock; 0 while it is just starting."""
    words = locks.read(paths.lock)
    if words is None:
        return None
    return int(words[0]) if words and words[0].isdigit() else 0


def _ready_pid(paths: LocalPaths) -> int | None:
    """Process id of the daemon once it works."""
    words = locks.read(paths.lock) or []
    return int(words[0]) if words[1:2] == [READY] else None


def find_demand_address(paths: LocalPaths) -> tuple[int, str] | None:
    """Port and token with which the gateway reports to the daemon, once that works."""
    words = locks.read(paths.lock) or []
    return (int(words[2]), words[3]) if words[1:2] == [READY] and words[3:] else None


def start_daemon(paths: LocalPaths, timeout_seconds: float) -> int:
    """Make sure that a daemon works on the objects and return its process id; starts one, detached, if need be.

    Raises ClusterUnavailable when it ends or does not come up in time.
    """
    child: subprocess.Popen[bytes] | None = None
    deadline = time.monotonic() + timeout_seconds
    while (pid := _ready_pid(paths)) is None:
        # Who held the lock may have been a daemon that stopped, or a command that ended a killed daemon's engines.
        if (child is None or child.poll() == EXIT_RUNNING) and running_pid(paths) is None:
            child = spawn(DAEMON_COMMAND, paths.daemon_log)
        # Of two daemons started at the same time one ends at once: the other is as good.
        if child and child.poll() not in (None, EXIT_RUNNING):
            raise ClusterUnavailable(
                f"The daemon ended with exit code {child.returncode}: {log_tail(paths.daemon_log)}"
            )
        if time.monotonic() > deadline:
            if child:
                child.terminate()
            raise ClusterUnavailable(
                f"The daemon did not start in {timeout_seconds:.0f} s: {log_tail(paths.daemon_log)}"
            )
        time.sleep(POLL_SECONDS)
    return pid


def spawn(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a process that outlives this one; what it prints goes into a log."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=log.parent
        )


def log_tail(log: Path) -> str:
    """The last line of a log, and where the others are."""
    try:
        text = log.read_bytes()[-SHOWN_LOG_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        text = ""
    last = text.splitlines()[-1] if text else "it printed nothing"
    return f"{last} (the whole log: {log})"


def stop_daemon(paths: LocalPaths, *, keep_engines: bool, timeout_seconds: float) -> bool:
    """Stop the daemon, and its engines unless they are kept; False when none was running.

    Raises ClusterUnavailable when it does not end in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while (pid := running_pid(paths)) == 0 and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if not pid:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT if keep_engines else signal.SIGTERM)
    while running_pid(paths) == pid:
        if time.monotonic() > deadline:
            raise ClusterUnavailable(f"The daemon (process {pid}) did not stop in {timeout_seconds:.0f} s.")
        time.sleep(POLL_SECONDS)
    return True
