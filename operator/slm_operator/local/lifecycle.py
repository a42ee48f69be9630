"""Start the daemon in the background, see whether it runs, stop it.

The lock decides, not the process id: the kernel frees it however the daemon ends, so there is no stale state.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from slm_operator.errors import ClusterUnavailable, DaemonRunning
from slm_operator.local.paths import LocalPaths

DAEMON_COMMAND = (sys.executable, "-m", "slm_operator.local.daemon")
POLL_SECONDS = 0.05
PROBE_PATIENCE_SECONDS = 1.0
"""How long a starting daemon waits for the lock: `slm status` holds it shared for microseconds."""
SHOWN_LOG_BYTES = 2000


@contextlib.contextmanager
def hold_lock(paths: LocalPaths) -> Iterator[None]:
    """Be the only daemon of this state folder; raises DaemonRunning. The process id is written once held."""
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with paths.lock.open("a+", encoding="ascii") as file:
        deadline = time.monotonic() + PROBE_PATIENCE_SECONDS
        while not _try_lock(file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = running_pid(paths)
                raise DaemonRunning(f"Another daemon (process {pid}) holds {paths.state}: stop it with `slm down`.")
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def running_pid(paths: LocalPaths) -> int | None:
    """Process id of the running daemon; None when nobody holds the lock; 0 while it is just starting."""
    try:
        with paths.lock.open(encoding="ascii") as file:
            if _try_lock(file.fileno(), fcntl.LOCK_SH):
                return None
            text = file.read().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else 0


def start_daemon(paths: LocalPaths, timeout_seconds: float) -> int:
    """Start the daemon detached and return its process id once it holds the lock.

    Raises DaemonRunning when there is one already, ClusterUnavailable when it ends or does not come up in time.
    """
    if (pid := running_pid(paths)) is not None:
        raise DaemonRunning(f"The daemon is running already (process {pid}).")
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with paths.daemon_log.open("ab") as log:
        child = subprocess.Popen(
            DAEMON_COMMAND, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=paths.state
        )
    deadline = time.monotonic() + timeout_seconds
    while not (pid := running_pid(paths)):
        if (code := child.poll()) is not None:
            raise ClusterUnavailable(f"The daemon ended with exit code {code}: {_log_tail(paths)}")
        if time.monotonic() > deadline:
            child.terminate()
            raise ClusterUnavailable(f"The daemon did not start in {timeout_seconds:.0f} s: {_log_tail(paths)}")
        time.sleep(POLL_SECONDS)
    return pid


def _log_tail(paths: LocalPaths) -> str:
    text = paths.daemon_log.read_bytes()[-SHOWN_LOG_BYTES:].decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else "it printed nothing"
    return f"{last} (the whole log: {paths.daemon_log})"


def stop_daemon(paths: LocalPaths, *, keep_engines: bool, timeout_seconds: float) -> bool:
    """Stop the daemon, and its engines unless they are kept; False when none was running.

    Raises ClusterUnavailable when it does not end in time.
    """
    pid = running_pid(paths)
    if not pid:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT if keep_engines else signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while running_pid(paths) == pid:
        if time.monotonic() > deadline:
            raise ClusterUnavailable(f"The daemon (process {pid}) did not stop in {timeout_seconds:.0f} s.")
        time.sleep(POLL_SECONDS)
    return True
