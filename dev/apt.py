"""Debian packages that the project's own targets install."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence


class NotInstalled(Exception):
    """A program is missing and cannot be installed from here; the message says how it is."""


def install(packages: Sequence[str]) -> None:
    """Install what is named, as root on Debian; raises CalledProcessError with what apt-get said."""
    sys.stderr.write(f"==> Installing {' '.join(packages)}\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *command], check=True, capture_output=True, text=True, env=environment)


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
