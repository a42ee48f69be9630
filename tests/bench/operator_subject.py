"""What is measured: an operator as a process, its processor time and its memory."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dev.cluster.cluster import free_ports
from tests.bench.harness import ROOT, Figures

END_SECONDS = 30.0


@dataclass(frozen=True)
class Subject:
    """How an operator is started; KUBECONFIG is added to its environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def slm_operator(namespace: str) -> Subject:
    """Ours, as its container runs it, but for the images, which nobody pulls here."""
    settings = {
        "SLM_OPERATOR_NAMESPACE": namespace,
        "SLM_POD_NAME": "bench-0",
        "SLM_LISTEN_PORT": str(free_ports(1)[0]),
        "SLM_PIPELINES_IMAGE": "pipelines:none",
        "SLM_ENGINE_IMAGE": "llama-cpp:none",
    }
    return Subject("slm-operator", (sys.executable, "-m", "slm_operator.handlers.main"), settings)


def plain_kopf(_namespace: str) -> Subject:
    """The baseline."""
    options = ("--all-namespaces", "--standalone", "--quiet", "-m", "tests.bench.operator_baseline")
    return Subject("plain kopf handlers", (sys.executable, "-m", "kopf", "run", *options))


SUBJECTS = (slm_operator, plain_kopf)


class Running:
    """An operator that runs."""

    def __init__(self, process: psutil.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._began = 0.0

    def log(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-2000:]

    def begin(self) -> None:
        """Count processor time from here."""
        self._began = self._cpu_seconds()

    def figures(self) -> Figures:
        """Processor time since ``begin``, memory now and the most it ever was; raises RuntimeError when it ended."""
        if not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"the operator ended by itself:\n{self.log()}")
        peak = next(
            int(line.split()[1])
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        return {
            "cpuSeconds": self._cpu_seconds() - self._began,
            "memoryMiB": self._process.memory_info().rss / 2**20,
            "peakMemoryMiB": peak / 1024,
        }

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def running(subject: Subject, kubeconfig: Path, folder: Path) -> Iterator[Running]:
    """Start it, and end it whatever happens."""
    log = folder / f"{subject.command[-1]}-{time.time_ns()}.log"
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLM_")}
    environment = {**own, "KUBECONFIG": str(kubeconfig), **subject.environment}
    with log.open("wb") as output:
        process = subprocess.Popen(subject.command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield Running(psutil.Process(process.pid), log)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
