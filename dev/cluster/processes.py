"""Processes of a cluster: started detached, remembered by pid and start time, ended only if still the same."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

GRACE_SECONDS = 10.0
SHOWN_LOG_BYTES = 1500


class StartFailed(Exception):
    """A component did not come up; the message ends with the end of its log."""


class Processes:
    """The components of one cluster; ``processes.json`` in its folder remembers them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record = folder / "processes.json"

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a component, with its output in ``NAME.log``, unless it runs already."""
        known = self._load()
        if name in known and _process(known[name]):
            return
        with self._log(name).open("ab") as log:
            child = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        known[name] = {"pid": child.pid, "created": psutil.Process(child.pid).create_time()}
        self._save(known)

    def running(self) -> dict[str, int]:
        """Name to process id of the components that run."""
        return {name: process.pid for name, entry in self._load().items() if (process := _process(entry))}

    def stop(self, *names: str) -> None:
        """End the components, last named last; each gets a moment to end by itself."""
        known = self._load()
        for name in names:
            if entry := known.pop(name, None):
                if process := _process(entry):
                    _end(process)
                self._save(known)

    def kill(self, name: str) -> None:
        """SIGKILL, for tests of what happens then."""
        if process := _process(self._load().get(name, {})):
            process.kill()
            process.wait(GRACE_SECONDS)

    def wait(self, name: str, ready: Callable[[], bool], limit_seconds: float = 120) -> None:
        """Wait until ``ready``; raises StartFailed when the component ends or takes too long."""
        deadline = time.monotonic() + limit_seconds
        while not ready():
            ended = name not in self.running()
            if ended or time.monotonic() > deadline:
                problem = "ended" if ended else f"was not ready in {limit_seconds:.0f} s"
                raise StartFailed(f"{name} {problem}; the end of {self._log(name)}:\n{self._tail(name)}")
            time.sleep(0.1)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        return self._log(name).read_bytes()[-SHOWN_LOG_BYTES:].decode(errors="replace")

    def _load(self) -> dict[str, dict[str, float]]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, dict[str, float]] = json.loads(self._record.read_text())
            return found
        return {}

    def _save(self, known: dict[str, dict[str, float]]) -> None:
        scratch = self._record.with_suffix(".tmp")
        scratch.write_text(json.dumps(known, indent=1))
        scratch.replace(self._record)


def _process(entry: dict[str, float]) -> psutil.Process | None:
    """The recorded process if it is still that one and no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess, KeyError):
        process = psutil.Process(int(entry["pid"]))
        if process.create_time() == entry["created"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(GRACE_SECONDS)
