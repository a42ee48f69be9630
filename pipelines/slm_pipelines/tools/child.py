"""Run a tool as a child that dies with us, and read what it prints while it prints it."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slm_contract.reasons import Reason
from slm_pipelines.errors import Retryable

PR_SET_PDEATHSIG = 1
"""``prctl`` option: the signal the kernel sends this process when its parent dies (linux/prctl.h)."""
POLL_SECONDS = 0.1
"""How often new output is looked for."""


@dataclass(frozen=True)
class ToolRun:
    """A finished tool: its exit code (negative: the signal that killed it) and all it printed."""

    program: str
    code: int
    output: str

    def complaint(self) -> str:
        """The last line that names a fault, else the last line at all."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        faults = [line for line in lines if any(word in line.lower() for word in ("error", "failed", "invalid"))]
        return (faults or lines or ["it printed nothing"])[-1]

    def require_success(self) -> None:
        """Raise Retryable StepFailed unless the tool exited with 0."""
        if self.code < 0:
            name = signal.Signals(-self.code).name
            message = f"{self.program} was killed by {name}, most often for lack of memory: raise the memory limit."
            raise Retryable(Reason.STEP_FAILED, message)
        if self.code:
            raise Retryable(Reason.STEP_FAILED, f"{self.program} failed with exit code {self.code}: {self.complaint()}")


def tool_environment() -> dict[str, str]:
    """Our environment without LLAMA_*: those variables silently change what an engine does and measures."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _death_pact() -> Callable[[], None] | None:
    """What a child does before exec so that even ``kill -9`` of us leaves no orphan; None where impossible."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def die_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # We died between fork and prctl.
            os._exit(1)

    return die_with_parent


def run_tool(
    argv: list[str | Path], on_output: Callable[[str], None] | None = None, cwd: Path | None = None
) -> ToolRun:
    """Run to the end; ``on_output`` gets everything printed so far, each time there is more.

    The output goes into memory rather than a pipe: llama.cpp prints from a thread that its exit does not wait for,
    and a pipe slows that thread so much that every second run loses its last lines, which hold the result.
    """
    with _memory_file() as sink:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=tool_environment(),
            cwd=cwd,
            preexec_fn=_death_pact(),  # noqa: PLW1509 steps have one thread
        )
        try:
            shown, running = "", True
            while running:
                running = _is_running(process)
                output = _read_all(sink).decode(errors="replace")
                if on_output and output != shown:
                    on_output(output)
                    shown = output
            return ToolRun(Path(argv[0]).name, process.returncode, output)
        finally:
            process.kill()
            process.wait()


def _memory_file() -> IO[bytes]:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("output"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _read_all(file: IO[bytes]) -> bytes:
    """Everything written so far; the position, which the child shares, stays at the end."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
