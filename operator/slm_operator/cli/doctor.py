"""``slm doctor``: is this machine fit, and what to do where it is not."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import typer

from slm_operator.cli.command import Command
from slm_operator.cli.exits import EPILOG, FAILURE
from slm_operator.cli.findings import Finding
from slm_operator.cli.gpus import find_gpus
from slm_operator.cli.session import load_settings
from slm_operator.cli.surroundings import check_daemon, check_hub, check_load, count_cpus
from slm_operator.cli.terminal import terminal
from slm_operator.core.quantity import format_bytes
from slm_operator.local.paths import LocalPaths
from slm_operator.settings import Settings

app = typer.Typer()
LOW_DISK_BYTES = 10 << 30
"""A 7B model takes about 14 GB as downloaded; below this even a 1.5B model and its variants get tight."""
LOW_MEMORY_BYTES = 2 << 30
"""A 1.5B model in Q4_K_M with a context of 4,096 tokens needs about 1.5 GiB."""
OLDEST_PYTHON = (3, 11)
PROGRAMS = ("llama-server", "llama-quantize", "llama-perplexity", "llama-tokenize", "llama-bench")
INSTALL = f"{sys.executable} -m slm_pipelines.tools.llama_cpp"
VERSION_TIMEOUT_SECONDS = 20
CPU_INFO = Path("/proc/cpuinfo")
VECTOR_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
"""Flags of x86-64 and AArch64 for which llama.cpp has a back end of its own."""
MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def check_python(_: Settings) -> Finding:
    """Whether Python is recent enough."""
    text = f"{platform.python_version()} at {sys.executable}"
    return Finding("ok" if sys.version_info >= OLDEST_PYTHON else "fail", "python", text)


def check_engine(settings: Settings) -> Finding:
    """Whether a complete llama.cpp is there and runs."""
    for origin, folder in engine_folders(settings):
        missing = [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]
        if not missing:
            return _check_version(folder, origin)
        if settings.llama_cpp:
            return Finding("fail", "llama.cpp", f"SLM_LLAMA_CPP names {folder}, which lacks {', '.join(missing)}")
    if shutil.which("apt-get") is None:
        text = f"not found, nor apt-get to install it: set SLM_LLAMA_CPP to a folder with {', '.join(PROGRAMS)}"
        return Finding("fail", "llama.cpp", text)
    return Finding("warn", "llama.cpp", f"not found; the first step that needs it installs it, as does: {INSTALL}")


def engine_folders(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Where llama.cpp may be, in the order in which the pipelines look."""
    if settings.llama_cpp:
        yield "SLM_LLAMA_CPP", settings.llama_cpp
        return
    for part in os.get_exec_path():
        if part and (Path(part) / PROGRAMS[0]).exists():
            yield "PATH", Path(part)
    for folder in sorted(settings.cache_home.glob("llama.cpp/b*/bin"), reverse=True):
        yield "cache", folder


def _check_version(folder: Path, origin: str) -> Finding:
    try:
        command = [str(folder / PROGRAMS[0]), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=False)
        output = done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        output = str(error)
    version = re.search(r"version: (.+)", output)
    if version is None:
        why = (output.strip().splitlines() or ["it printed nothing"])[-1]
        return Finding(
            "fail", "llama.cpp", f"{folder} (from {origin}) does not run: {why}; reinstall it with: {INSTALL}"
        )
    return Finding("ok", "llama.cpp", f"{version[1]} in {folder} (from {origin})")


def check_disk(settings: Settings) -> Finding:
    """Whether the store has room."""
    folder = settings.data_home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{format_bytes(free)} free for {LocalPaths.of(settings).store}"
    if free < LOW_DISK_BYTES:
        return Finding("warn", "disk", f"{text}: enough for tiny models only; free some space or set SLM_DATA_HOME")
    return Finding("ok", "disk", text)


def check_memory(_: Settings) -> Finding:
    """Whether a small model fits."""
    memory = psutil.virtual_memory()
    text = f"{format_bytes(memory.available)} available of {format_bytes(memory.total)}"
    if memory.available < LOW_MEMORY_BYTES:
        return Finding("warn", "memory", f"{text}: models of more than about 1B parameters will not fit")
    return Finding("ok", "memory", text)


def check_cpus(_: Settings) -> Finding:
    """How many CPUs an engine may use."""
    usable = count_cpus()
    quota = read_cpu_quota(Path("/sys/fs/cgroup"))
    text = f"{usable} usable of {os.cpu_count()}"
    if quota is not None and quota < usable:
        return Finding("ok", "cpus", f"{text}, limited to {quota:g} by a cgroup quota: engines keep to it")
    return Finding("ok", "cpus", f"{text}, no quota found")


def check_features(_: Settings) -> Finding:
    """Which vector instructions speed up the engine."""
    try:
        flags = set(re.findall(r"\w+", CPU_INFO.read_text()))
    except OSError:
        return Finding("ok", "features", "unknown; the engine finds out by itself")
    found = [name for name in VECTOR_FEATURES if name in flags]
    if not found:
        return Finding("warn", "features", f"none of {', '.join(VECTOR_FEATURES)}: answers will be slow")
    return Finding("ok", "features", ", ".join(found))


def check_gpu(settings: Settings) -> Finding:
    """Which GPUs there are, and whether the engine that is installed here uses them."""
    benches = (folder / "llama-bench" for _, folder in engine_folders(settings))
    return find_gpus(next((bench for bench in benches if os.access(bench, os.X_OK)), None))


def read_cpu_quota(cgroup: Path) -> float | None:
    """CPUs that the cgroup (version 2, or 1 below ``cpu``) allows; None without a limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        return limit_us / int((cgroup / "cpu/cpu.cfs_period_us").read_text()) if limit_us > 0 else None
    except (OSError, ValueError):
        return None


def check_state(settings: Settings) -> Finding:
    """Whether the state folder can be written."""
    folder = settings.state_home
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("fail", "state", f"{folder} cannot be written: mend its permissions or set SLM_STATE_HOME")
    return Finding("ok", "state", str(settings.state_home))


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    check_python,
    check_engine,
    check_disk,
    check_memory,
    check_cpus,
    check_load,
    check_features,
    check_gpu,
    check_state,
    check_daemon,
    check_hub,
)


@app.command(cls=Command, epilog=EPILOG)
def doctor() -> None:
    """Check this machine and say what to mend.

    Asks the hub whether it answers, for five seconds at most. Exits with 1 when something must be mended; warnings do
    not count.

    Examples:
      slm doctor

    """
    settings = load_settings()
    findings = [check(settings) for check in CHECKS]
    for finding in findings:
        terminal.result(f"{MARKS[finding.mark]}  {finding.subject:<10} {finding.text}")
    if any(finding.mark == "fail" for finding in findings):
        raise typer.Exit(FAILURE)
