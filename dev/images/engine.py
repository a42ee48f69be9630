"""A Docker engine: the one that runs here, or one of our own that lives as long as it is needed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docker.client import DockerClient
from docker.errors import DockerException

from dev import apt
from dev.cluster.cluster import state_folder
from dev.cluster.node import controllers
from dev.cluster.processes import Processes

CGROUP = "slm-images"
"""Below which the containers of our engine run."""
KEY = Path("/etc/docker/key.json")
"""Docker before 23 writes its identity there, wherever the rest of its files are."""
TIMEOUT_SECONDS = 600
"""A step of a build may be silent for long."""
START_SECONDS = 60


class EngineMissing(Exception):
    """No Docker engine can be had; the message says what to do."""


@dataclass(frozen=True)
class Engine:
    """An engine that answers."""

    client: DockerClient
    network: str
    """Network mode with which a step of a build reaches the outside."""


def folder() -> Path:
    """Where our engine keeps its files while it runs."""
    return state_folder().parent / "dev-images"


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """The engine that DOCKER_HOST names, else the one at the usual socket, else one of our own.

    Raises EngineMissing, NotInstalled, or StartFailed when our own does not come up.
    """
    try:
        client = running_engine()
    except DockerException as problem:
        if os.environ.get("DOCKER_HOST"):
            raise EngineMissing(f"DOCKER_HOST names an engine that does not answer: {problem}") from problem
        if "Permission denied" in str(problem):
            message = "A Docker engine runs but this user may not use it: join the group docker, and log in again"
            raise EngineMissing(message) from problem
    else:
        with contextlib.closing(client):
            yield Engine(client, "default")
        return
    with _own_engine() as client:
        yield Engine(client, "host")  # It has no bridge: that would change the machine's network.


@contextlib.contextmanager
def engine_lock() -> Iterator[None]:
    """Whoever holds it is the only one on this machine who runs an engine of ours."""
    path = folder().with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def running_engine() -> DockerClient:
    """A client of an engine that runs already; raises DockerException."""
    client: DockerClient = DockerClient.from_env(timeout=TIMEOUT_SECONDS)
    client.ping()
    return client


@contextlib.contextmanager
def _own_engine() -> Iterator[DockerClient]:
    """Started here and ended here; one at a time, and what a killed one left is taken away first."""
    if os.getuid() != 0:
        raise EngineMissing("No Docker engine runs, and only root can start one: start yours, or set DOCKER_HOST")
    apt.require("dockerd", "docker.io", "No Docker engine runs, so that one has to be started")
    home = folder()
    with engine_lock():
        _remove(home)
        had_key = KEY.exists()
        home.mkdir(mode=0o700)
        try:
            # A socket's path is short, so it cannot lie in any folder that the user may have chosen.
            with tempfile.TemporaryDirectory(prefix="slm-images-", dir="/run") as run:
                yield from _started(home, Path(run))
        finally:
            _remove(home)
            if not had_key:
                KEY.unlink(missing_ok=True)


def _started(home: Path, run: Path) -> Iterator[DockerClient]:
    processes = Processes(home)
    processes.start("dockerd", _command(home, run))
    try:
        processes.wait("dockerd", (run / "docker.sock").exists, START_SECONDS)
        with contextlib.closing(DockerClient(f"unix://{run}/docker.sock", timeout=TIMEOUT_SECONDS)) as client:
            processes.wait("dockerd", lambda: _answers(client), START_SECONDS)
            yield client
    finally:
        processes.stop("dockerd")


def _command(home: Path, run: Path) -> list[str]:
    """The daemon in a mount namespace of its own: whatever it mounts goes with it.

    It changes nothing of the machine's network and reads no configuration of a Docker that may be installed here.
    """
    (home / "daemon.json").write_text("{}")
    command = ["unshare", "--mount", "dockerd", "--config-file", str(home / "daemon.json")]
    command += ["--host", f"unix://{run}/docker.sock", "--data-root", str(home / "data"), "--exec-root", str(run)]
    command += ["--pidfile", str(run / "docker.pid"), "--cgroup-parent", f"/{CGROUP}"]
    return [*command, "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]


def _answers(client: DockerClient) -> bool:
    with contextlib.suppress(DockerException):
        return bool(client.ping())
    return False


def _remove(home: Path) -> None:
    """End what runs, and take its files and control groups away."""
    Processes(home).stop("dockerd")
    shutil.rmtree(home, ignore_errors=True)
    for controller in controllers():
        for path, _, _ in os.walk(controller / CGROUP, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
