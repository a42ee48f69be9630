"""The demo's model, trained once for all tests: the same recipe gives the same bytes."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "tests" / "tiny-docs"


def trained_model() -> Path:
    """The folder of the model; whoever comes first trains it, the others wait. It must not be changed."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with (FOLDER.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "dev.demo.train", str(FOLDER)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    return FOLDER


def copy_trained_model(hub: Path) -> None:
    """Put the model where a hub in ``hub`` offers it as the demo does."""
    shutil.copytree(trained_model(), hub / "slm-demo" / "tiny-docs")
