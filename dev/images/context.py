"""What a Dockerfile finds beside it: our packages as they are, those of others as their lock has them.

The packages' folders are copied rather than installed from a wheel, because the project's one wheel holds all three
packages and each image must hold two. Those of others are laid out here by uv, which can do so for another Python and
another architecture than this machine's: no image needs pip, and no build needs a network.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from dev.images.recipe import ARCHITECTURES, Recipe, machine, project_version, source_files

PLATFORM = "manylinux_2_28"
"""Wheels for glibc 2.28 and newer: Debian forky has 2.43."""
UNWANTED = ("bin", ".lock", "**/tests", "*.dist-info/RECORD")
"""Console scripts, which name the Python that installed them, and so do the lists of files with their digests; uv's
own; tests of others, 21 MB of numpy's above all."""


class ContextFailed(Exception):
    """Packages could not be laid out; the message ends with what uv said."""


def write_context(recipe: Recipe, folder: Path, architecture: str = "") -> None:
    """Fill an empty folder so that any builder can build the image in it; raises ContextFailed."""
    for path in source_files(recipe.folder):
        shutil.copy(path, folder / path.name)
    if recipe.lock is None:
        return
    install_packages(recipe.lock, recipe.arguments["PYTHON"], architecture or machine(), folder / "packages")
    for package in recipe.sources:
        target = folder / "source" / package.name
        shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    if recipe.name == "slm-operator":
        write_metadata(folder / "source")


def install_packages(lock: Path, python: str, architecture: str, target: Path) -> None:
    """Lay out wheels, verified by the lock's hashes, for a Python such as ``3.14`` and ``amd64`` or ``arm64``."""
    kernel_name = next(name for name, known in ARCHITECTURES.items() if known == architecture)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(target)]
    command += ["--python-version", python, "--python-platform", f"{kernel_name}-{PLATFORM}", "--only-binary", ":all:"]
    command += ["--require-hashes", "--no-deps", "--no-config", "--link-mode", "copy", "--requirements", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContextFailed(
            f"The packages of {lock.name} for Python {python} on {architecture}:\n{done.stderr[-2000:]}"
        )
    for path in [path for pattern in UNWANTED for path in target.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_metadata(site: Path) -> None:
    """What ``importlib.metadata`` tells of the project: name and version."""
    version = project_version()
    folder = site / f"slm_operator-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: slm-operator\nVersion: {version}\n")


def pack(folder: Path, target: IO[bytes], epoch_seconds: int) -> None:
    """Write the folder as the tar that an engine takes; order, owners, modes and times come from nobody's machine."""
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(folder)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = epoch_seconds
            entry.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            with path.open("rb") if entry.isreg() else nullcontext() as file:
                archive.addfile(entry, file)
