"""One demo for all tests that look at its outcome."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.trained import copy_trained_model

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Demo:
    """A finished demo whose service still runs."""

    build: Path
    result: dict[str, Any]
    output: str

    @property
    def environment(self) -> dict[str, str]:
        """What `slm` needs to speak to this demo's daemon."""
        return demo_environment(self.build)


def demo_environment(build: Path) -> dict[str, str]:
    """The environment of commands that belong to the demo in ``build``."""
    return {
        **os.environ,
        "DEMO_BUILD": str(build),
        "SLM_STATE_HOME": str(build / "state"),
        "SLM_DATA_HOME": str(build / "data"),
    }


def run_demo(build: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in a folder of its own."""
    command = [sys.executable, "-m", "dev.demo.run", *arguments]
    environment = demo_environment(build) | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=540)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo, run once; its service answers until the last test is done."""
    build = tmp_path_factory.mktemp("demo")
    copy_trained_model(build / "hub")
    done = run_demo(build)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield Demo(build, json.loads((build / "result.json").read_text()), done.stdout)
    finally:
        run_demo(build, "--down")
