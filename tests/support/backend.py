"""The local backend as a user has it: the `slm` command and its daemon, in a folder of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from slm_operator.local.gateway_keeper import RunningGateway, find_gateway
from slm_operator.local.paths import LocalPaths
from slm_pipelines.store import hash_file


class Backend:
    """One state folder and what runs in it."""

    def __init__(
        self, folder: Path, hub_endpoint: str = "", *, gateway: bool = False, namespace: str = "default"
    ) -> None:
        self.folder = folder
        self.store = folder / "data" / "store"
        self.environment = {
            **os.environ,
            "SLM_STATE_HOME": str(folder / "state"),
            "SLM_DATA_HOME": str(folder / "data"),
            "HF_ENDPOINT": hub_endpoint,
            "SLM_ALLOW_PRIVATE_HOSTS": "127.0.0.1",
            "SLM_GATEWAY": str(gateway),
            "SLM_GATEWAY_PORT": "0",
            "SLM_NAMESPACE": namespace,
        }

    def try_slm(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run ``slm``; any exit code."""
        command = [sys.executable, "-m", "slm_operator.cli.main", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, input=stdin, timeout=2500
        )

    def slm(self, *arguments: str, stdin: str | None = None) -> str:
        """Run ``slm`` and expect success."""
        done = self.try_slm(*arguments, stdin=stdin)
        assert done.returncode == 0, f"slm {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests from standard input."""
        self.slm("apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in manifests))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        document: dict[str, Any] = json.loads(self.slm("get", kind, name, "-o", "json"))
        return document

    def wait_ready(self, kind: str, name: str, timeout_seconds: int = 300) -> dict[str, Any]:
        """The object once it is Ready."""
        self.slm("wait", "--for=condition=Ready", f"{kind}/{name}", f"--timeout={timeout_seconds}s")
        return self.get(kind, name)

    def processes(self) -> list[psutil.Process]:
        """Everything alive that belongs to this folder: daemon, steps, engines, and their children."""
        return [process for process, _ in self.commands()]

    def commands(self) -> list[tuple[psutil.Process, list[str]]]:
        """The same with their command lines, read at once: any of them may end at any moment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                command = process.cmdline()
                words = [*command, *process.environ().values()]
                own = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
                if own and command and any(str(self.folder) in word for word in words):
                    found.append((process, command))
        return found

    def daemon(self) -> psutil.Process:
        """The daemon's process."""
        return next(process for process, words in self.commands() if "slm_operator.local.daemon" in words)

    def kill_daemon(self) -> None:
        """``kill -9``."""
        daemon = self.daemon()
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)

    def gateway(self) -> RunningGateway:
        """The gateway, once it accepts requests."""
        paths = LocalPaths(self.folder / "state", self.folder / "data", self.folder)
        found: RunningGateway = until(lambda: find_gateway(paths), "no gateway comes up")
        return found

    def step_processes(self, step: str) -> list[psutil.Process]:
        """Running processes of a pipeline step."""
        return [process for process, words in self.commands() if {"slm_pipelines", step} <= set(words)]

    def damaged_blobs(self) -> list[str]:
        """Blobs whose content is not what their name says."""
        blobs = sorted((self.store / "blobs" / "sha256").iterdir())
        return [blob.name for blob in blobs if hash_file(blob) != f"sha256:{blob.name}"]


@contextmanager
def local_backend(
    folder: Path, hub_endpoint: str = "", *, gateway: bool = False, namespace: str = "default"
) -> Iterator[Backend]:
    """A running backend, without its gateway unless it is asked for; afterwards nothing of it may be alive.

    A service's port follows from its namespace and name: where the daemon is killed, which frees the port for a moment,
    another test's service must not have the same.
    """
    backend = Backend(folder, hub_endpoint, gateway=gateway, namespace=namespace)
    backend.slm("up")
    try:
        yield backend
    finally:
        backend.slm("down")
        until(lambda: not backend.processes(), "processes outlive the daemon")


def until(holds: Callable[[], object], otherwise: str, limit_seconds: float = 30, pause_seconds: float = 0.02) -> Any:
    """The first true answer; ``otherwise`` says what is wrong when there is none."""
    deadline = time.monotonic() + limit_seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(pause_seconds)
    return found


def write_figures(name: str, figures: dict[str, Any]) -> None:
    """Keep what a test measured where people look for it: ``build/figures/NAME.json``."""
    folder = Path(__file__).resolve().parents[2] / "build" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
