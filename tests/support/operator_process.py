"""The operator as a process of its own, as its container runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import psutil


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OperatorProcess:
    """One replica; started, asked, and ended as a test likes."""

    def __init__(self, folder: Path, kubeconfig: Path, port: int, module: str = "", **settings: str) -> None:
        self.log = folder / f"operator-{port}.log"
        self.port = port
        self._module = module or "slm_operator.handlers.main"
        own = {name: value for name, value in os.environ.items() if not name.startswith("SLM_")}
        chosen = {"SLM_LISTEN_PORT": str(port), "SLM_LOG_FORMAT": "json", "SLM_POD_NAME": f"replica-{port}"}
        self._environment = {**own, "KUBECONFIG": str(kubeconfig), **chosen, **settings}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its log is appended to."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module], env=self._environment, stderr=log, stdout=log
            )

    def kill(self) -> None:
        """SIGKILL: it can do nothing about it."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its HTTP paths; 0 when nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, HTTPException) as error:  # Not there, or gone in the middle.
            return 0, str(error)

    def wait_ready(self, seconds: float = 30) -> None:
        """Until its caches are filled."""
        end = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            assert time.monotonic() < end, f"the operator is not ready: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def metrics(self, name: str) -> dict[str, float]:
        """Samples of a metric by their labels as text."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        pairs = (line.removeprefix(name).rsplit(" ", 1) for line in lines)
        return {labels: float(value) for labels, value in pairs if labels[:1] in ("", "{")}

    def leads(self) -> bool:
        """Whether it acts."""
        return self.metrics("slm_operator_leading").get("", 0) == 1

    def lines(self) -> list[dict[str, object]]:
        """Its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def bugs(self) -> list[str]:
        """Lines of its own log that carry a traceback: what it did not foresee.

        What asyncio says of kopf's abandoned generators, when watches end all at once, is none of ours.
        """
        told = [line for line in self.lines() if str(line.get("logger", "")).startswith("slm_operator")]
        return [str(line) for line in told if "exc_info" in line]

    def usage(self) -> tuple[float, float]:
        """CPU seconds used so far, and resident memory in MiB."""
        assert self.process is not None
        told = psutil.Process(self.process.pid)
        times = told.cpu_times()
        return times.user + times.system, told.memory_info().rss / 2**20
