"""The `slm` command as a person runs it, in folders of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from slm_operator.adapters.sqlite import SqliteCluster

MODEL = """\
apiVersion: slm.dev/v1alpha1
kind: SLMModel
metadata: {name: NAME}
spec: {suspend: true, source: {path: /nowhere/NAME}}
"""
"""Suspended: nothing is tried, so nothing fails."""


@dataclass(frozen=True)
class Slm:
    """Commands of one home."""

    home: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one command."""
        command = [sys.executable, "-m", "slm_operator.cli.main", *arguments]
        return subprocess.run(
            command, env=self.environment, input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def good(self, *arguments: str, stdin: str = "") -> str:
        """Run one command that must succeed; returns what it printed."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def bad(self, code: int, *arguments: str, stdin: str = "") -> str:
        """Run one command that must end with that code; returns its message."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == code, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stderr

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.home / "state" / "slm-operator"

    def cluster(self) -> SqliteCluster:
        """The objects, as the daemon sees them."""
        return SqliteCluster(self.state / "objects.db")


def make_slm(home: Path, **more: str) -> Slm:
    folders = {f"XDG_{name.upper()}_HOME": str(home / name) for name in ("state", "data", "cache", "config")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLM_", "XDG_"))}
    (home / "user").mkdir(parents=True)
    return Slm(home, {**kept, **folders, "HOME": str(home / "user"), "SLM_GATEWAY": "false", **more})


@pytest.fixture
def slm(tmp_path: Path) -> Iterator[Slm]:
    """A home without objects and without a daemon, and none afterwards."""
    found = make_slm(tmp_path)
    yield found
    found("down")
    assert not list((tmp_path / "user").iterdir()), "something was written outside the XDG folders"


def model(name: str) -> str:
    return MODEL.replace("NAME", name)


def has_ended(pid: int) -> bool:
    """Whether a process is gone within seconds; a zombie nobody waits for counts as gone."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if is_gone(pid):
            return True
        time.sleep(0.02)
    return False


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie nobody waits for has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def daemon_pid(slm: Slm) -> int:
    return int((slm.state / "daemon.lock").read_text().split()[0])
