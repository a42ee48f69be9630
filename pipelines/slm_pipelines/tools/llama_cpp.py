"""Find llama.cpp, or install it without root: ``python -m slm_pipelines.tools.llama_cpp`` says where it is.

Looked for in the folder that SLM_LLAMA_CPP names, then on PATH, then in the cache folder; else it is
unpacked from Debian into the cache folder.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slm_contract import exitcodes
from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput, Retryable, StepFailure
from slm_pipelines.progress import Reporter
from slm_pipelines.tools.child import run_tool, tool_environment
from slm_pipelines.tools.cpus import cpu_threads
from slm_pipelines.tools.debian import PrivateApt, machine_sources, unpack

__all__ = ["PROGRAMS", "Engine", "cache_folder", "cpu_threads", "locate", "main"]

PROGRAMS = ("llama-server", "llama-quantize", "llama-perplexity", "llama-tokenize", "llama-bench")
"""What a complete llama.cpp brings; an incomplete one is passed over."""
PACKAGES = ["llama.cpp-tools", "llama.cpp-tools-extra"]
NEEDED_BYTES = 200 << 20
"""Room for an installation: 53 MB unpacked, 14 MB of packages, and 70 MB of apt's index while it works."""
INSTALL_STAGES = 4
LASTING_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
"""What the file system answers when the cache folder can never be written."""
WAYS = (
    f"Provide it in one of three ways: set SLM_LLAMA_CPP to a folder that holds {', '.join(PROGRAMS)}; put them on "
    "PATH; or let it be installed, which needs Linux, apt-get and a reachable Debian mirror in apt's sources."
)
WRAPPER = """\
#!/bin/sh
# Runs the program with the C library it was built for; exec keeps the process id.
root=$(dirname "$(readlink -f "$0")")/..
lib="$root/{libraries}"
exec "$lib/{loader}" --argv0 "$0" --library-path "$lib:$lib/llama" "$root/usr/bin/{program}" "$@"
"""


@dataclass(frozen=True)
class Engine:
    """A complete llama.cpp."""

    folder: Path
    """Folder of the programs."""
    version: str
    """Such as ``llama.cpp b11669 (0.7.0)``: part of the identity of everything it makes."""

    def program(self, name: str) -> Path:
        """Absolute path of one of PROGRAMS."""
        return self.folder / name


def cache_folder() -> Path:
    """Where installations are kept: $SLM_CACHE_HOME, else slm-operator in the user's cache."""
    if chosen := os.environ.get("SLM_CACHE_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slm-operator"


def _missing(folder: Path) -> list[str]:
    return [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]


def _parse_version(text: str) -> tuple[str, str] | None:
    """Build and release from ``version: 0.7.0 (build 11669, …)`` or, as older builds say, ``version: 4567 (…)``."""
    if match := re.search(r"version: (\S+) \(build (\d+)", text):
        return match[2], match[1]
    match = re.search(r"version: (\d+) \(", text)
    return (match[1], "") if match else None


def _open_engine(folder: Path) -> Engine:
    """The engine in a folder; raises BadInput EngineMissing when its programs do not run."""
    try:
        output = run_tool([folder / "llama-server", "--version"]).output
    except OSError as failure:
        output = str(failure)
    version = _parse_version(output)
    if version is None:
        why = output.strip().splitlines()[-1:] or ["it printed nothing"]
        raise BadInput(Reason.ENGINE_MISSING, f"{folder}/llama-server does not tell its version: {why[0]}")
    build, release = version
    return Engine(folder, f"llama.cpp b{build}" + (f" ({release})" if release else ""))


def _chosen() -> Path | None:
    """The folder the user chose; raises BadInput EngineMissing when it is incomplete."""
    setting = os.environ.get("SLM_LLAMA_CPP")
    if not setting:
        return None
    folder = Path(setting).absolute()
    if missing := _missing(folder):
        raise BadInput(Reason.ENGINE_MISSING, f"SLM_LLAMA_CPP names {folder}, which lacks {', '.join(missing)}")
    return folder


def _on_path() -> Path | None:
    folders = (Path(part).absolute() for part in os.get_exec_path() if part)
    return next((folder for folder in folders if not _missing(folder)), None)


def _installed(home: Path) -> Path | None:
    """The newest installation in the cache; names are build numbers first."""
    found = [path for path in home.glob("b*/bin") if not _missing(path)]
    return max(found, key=lambda path: int(re.sub(r"\D.*", "", path.parent.name[1:]) or 0), default=None)


@contextlib.contextmanager
def _install_lock(home: Path) -> Iterator[None]:
    """One installer at a time; the kernel frees the lock when its holder dies."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "install.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_runnable(root: Path) -> None:
    """Write ``bin/`` wrappers that start each program through the unpacked loader."""
    loaders = sorted(root.glob("usr/lib/*-linux-gnu*/ld-linux*.so.*"))
    if not loaders:
        raise BadInput(Reason.ENGINE_MISSING, "Debian's C library for this architecture has no loader we know")
    libraries = loaders[0].parent
    # The engine looks for its CPU back ends beside the running executable, which is the loader.
    for backend in libraries.glob("ggml/backends0/*.so"):
        (libraries / backend.name).symlink_to(backend.relative_to(libraries))
    (root / "bin").mkdir()
    for program in root.glob("usr/bin/llama-*"):
        wrapper = root / "bin" / program.name
        values = {"libraries": libraries.relative_to(root), "loader": loaders[0].name, "program": program.name}
        wrapper.write_text(WRAPPER.format(**values))
        wrapper.chmod(0o755)


def _install_into(folder: Path, reporter: Reporter | None) -> Path:
    """Fetch, unpack, check below ``folder``; returns the finished tree, whose name is its version."""

    def report(stage: int, message: str) -> None:
        if reporter:
            reporter.report(message, stage, INSTALL_STAGES)

    report(0, "Asking the Debian mirror for llama.cpp")
    packages = PrivateApt(folder / "apt", machine_sources()).fetch(PACKAGES)
    report(1, f"Unpacking {len(packages)} packages")
    root = folder / "root"
    unpack(packages, root)
    for unused in ("usr/share/man", "usr/share/locale", "usr/share/bash-completion"):
        shutil.rmtree(root / unused, ignore_errors=True)
    report(2, "Checking that llama.cpp runs")
    _make_runnable(root)
    engine = _open_engine(root / "bin")
    backends = run_tool([engine.program("llama-bench"), "--list-devices"]).output
    if _missing(engine.folder) or "loaded CPU backend" not in backends:
        raise BadInput(Reason.ENGINE_MISSING, "the unpacked programs lack a back end for this CPU")
    release = re.sub(r"[^0-9.]+", "-", engine.version.removeprefix("llama.cpp b")).strip("-")
    return root.rename(folder / f"b{release}")


def _install(home: Path, reporter: Reporter | None) -> Path:
    """Install under the lock; whole or not at all."""
    with _install_lock(home):
        if found := _installed(home):  # Somebody else installed it while we waited.
            return found
        for leftover in home.glob("installing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(home).free
        if free < NEEDED_BYTES:
            message = f"Installing llama.cpp needs {NEEDED_BYTES >> 20} MiB below {home}: {free >> 20} MiB are free."
            raise Retryable(Reason.INSUFFICIENT_SPACE, message)
        with tempfile.TemporaryDirectory(prefix="installing-", dir=home) as folder:
            made = _install_into(Path(folder), reporter)
            target = home / made.name
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    if reporter:
        reporter.report("Installed llama.cpp", INSTALL_STAGES, INSTALL_STAGES)
    return target / "bin"


def locate(reporter: Reporter | None = None) -> Engine:
    """A complete llama.cpp, installed if need be.

    Raises BadInput EngineMissing when there is none and none can be installed here, Retryable EngineMissing when
    the mirror does not answer, Retryable InsufficientSpace when the cache folder's disk is full.
    """
    home = cache_folder().absolute() / "llama.cpp"
    try:
        folder = _chosen() or _on_path() or _installed(home) or _install(home, reporter)
        return _open_engine(folder)
    except StepFailure as failure:
        if failure.reason is not Reason.ENGINE_MISSING:
            raise
        message = f"llama.cpp cannot be used: {failure.message}. {WAYS}"
        raise type(failure)(failure.reason, message) from failure
    except OSError as failure:
        message = f"llama.cpp cannot be installed into {home}: {failure.strerror}. Set SLM_CACHE_HOME, or: {WAYS}"
        kind = BadInput if failure.errno in LASTING_ERRORS else Retryable
        raise kind(Reason.ENGINE_MISSING, message) from failure


def main(arguments: list[str] | None = None) -> int:
    """Print ``{"bin", "version", "server"}`` as JSON on standard output, progress on standard error.

    ``exec PROGRAM ARGUMENT...`` becomes that program instead, so that whoever started us watches the engine itself.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with contextlib.redirect_stdout(sys.stderr):
            engine = locate(Reporter("engine"))
    except StepFailure as failure:
        sys.stderr.write(f"{failure.reason}: {failure.message}\n")
        return exitcodes.BAD_INPUT if isinstance(failure, BadInput) else exitcodes.RETRYABLE
    if given[:1] == ["exec"]:
        program = str(engine.program(given[1]))
        os.execve(program, [program, *given[2:]], tool_environment())  # noqa: S606 - an argv list, no shell
    answer = {"bin": str(engine.folder), "version": engine.version, "server": str(engine.program("llama-server"))}
    sys.stdout.write(json.dumps(answer) + "\n")
    return exitcodes.OK


if __name__ == "__main__":
    sys.exit(main())
