"""Programs built from Go modules, once per version, into the cache folder outside the work tree."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from dev.cluster.versions import DEFAULT_MINOR, KUBERNETES, TOOLS

SOURCE = Path(__file__).parent / "kubernetes"
DIGEST_LENGTH = 12
VERSION_PACKAGE = "k8s.io/component-base/version"


class BuildFailed(Exception):
    """A program could not be built; the message ends with what the compiler said."""


def cache_folder() -> Path:
    """Where built programs stay; ``SLM_CACHE_HOME`` moves it."""
    own, xdg = os.environ.get("SLM_CACHE_HOME"), os.environ.get("XDG_CACHE_HOME", "")
    base = Path(own) if own else (Path(xdg) if xdg.startswith("/") else Path.home() / ".cache") / "slm-operator"
    return base / "cluster"


def module_file(version: str) -> Path:
    """The go.mod of a Kubernetes version; its go.sum has the same stem."""
    return SOURCE / ("go.mod" if version == KUBERNETES[DEFAULT_MINOR] else f"kubernetes-{version}.mod")


def kubernetes_path(version: str) -> Path:
    """Where the binary of a Kubernetes version lies once it is built; its name changes with what it is built from."""
    module = module_file(version)
    parts = (SOURCE / "main.go", module, module.with_suffix(".sum"))
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:DIGEST_LENGTH]
    return _place(f"kubernetes-{version}-{digest}")


def kubernetes(version: str) -> Path:
    """The binary that holds every component of a Kubernetes version and etcd; built when it is not there."""
    major, minor, _ = version.split(".")
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = "-s -w " + " ".join(f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in stamps.items())
    command = ["install", "-trimpath", f"-modfile={module_file(version)}", "-ldflags", flags, "."]
    return _built(kubernetes_path(version), command, SOURCE, f"Kubernetes {version}")


def tool(name: str) -> Path:
    """A program of ``versions.TOOLS``; built when it is not there."""
    wanted = TOOLS[name]
    command = ["install", "-trimpath", "-ldflags", "-s -w", f"{wanted.package}@{wanted.version}"]
    return _built(_place(f"{name}-{wanted.version}"), command, Path("/"), f"{name} {wanted.version}")


def tools(names: Iterable[str]) -> dict[str, Path]:
    """Several programs by name."""
    return {name: tool(name) for name in names}


def _place(name: str) -> Path:
    return cache_folder() / "bin" / name


def _built(target: Path, command: list[str], folder: Path, title: str) -> Path:
    """The program in the cache. It appears there whole or not at all; a second builder waits for the first."""
    if target.exists():
        return target
    if shutil.which("go") is None:
        raise BuildFailed(f"{title} is built with Go, which is not on PATH: apt-get install golang")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(target, command, folder, title)
    return target


def _build(target: Path, command: list[str], folder: Path, title: str) -> None:
    sys.stderr.write(f"==> Building {title} (once; kept in {target.parent})\n")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": scratch, "GOWORK": "off"}
        done = subprocess.run(
            ["go", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BuildFailed(f"{title} could not be built:\n{done.stderr[-2000:]}")
        (made,) = Path(scratch).iterdir()
        made.rename(target)
    sys.stderr.write(f"    {target.stat().st_size >> 20} MiB in {time.monotonic() - began:.0f} s\n")
