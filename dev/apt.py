"""Debian packages that the project's own targets install."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.build import cache_folder


class NotInstalled(Exception):
    """A program is missing and cannot be installed from here; the message says how it is."""


def install(packages: Sequence[str]) -> None:
    """Install what is named, as root on Debian; raises CalledProcessError with what apt-get said."""
    sys.stderr.write(f"==> Installing {' '.join(packages)}\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *command], check=True, capture_output=True, text=True, env=environment)


def unpack(program: str, package: str, purpose: str) -> Path:
    """A program that needs nothing but its package's files: found on PATH, or unpacked into the cache folder.

    Nothing is installed, since packages of servers start them. Raises NotInstalled, whose message begins with the
    purpose.
    """
    if found := shutil.which(program):
        return Path(found)
    folder = cache_folder().parent / "debian" / package
    target = folder / "usr" / "bin" / program
    if target.exists():
        return target
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        downloads, root = Path(scratch) / "downloads", Path(scratch) / "root"
        downloads.mkdir()
        downloads.chmod(0o777)  # As root apt-get fetches as a user of its own.
        try:
            _download(package, downloads)
            (archive,) = downloads.glob("*.deb")
            subprocess.run(["dpkg", "-x", archive, root], check=True, capture_output=True, text=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as problem:
            said = getattr(problem, "stderr", "") or problem
            raise NotInstalled(f"{purpose}, and Debian's package {package} could not be had: {said}") from problem
        shutil.rmtree(folder, ignore_errors=True)
        root.rename(folder)
    return target


def _download(package: str, folder: Path) -> None:
    command = ["apt-get", "-qq", "download", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and os.getuid() == 0:  # Its lists may be missing, or old.
        subprocess.run(["apt-get", "-qq", "update"], check=True, capture_output=True, text=True)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    done.check_returncode()


def require(program: str, package: str, purpose: str) -> None:
    """Have a program on PATH, installed if need be; raises NotInstalled, whose message begins with the purpose."""
    if shutil.which(program):
        return
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        raise NotInstalled(f"{purpose}, and {program} is not here: as root, apt-get install {package}")
    try:
        install([package])
    except subprocess.CalledProcessError as problem:
        raise NotInstalled(f"{purpose}, and {package} could not be installed:\n{problem.stderr}") from problem
