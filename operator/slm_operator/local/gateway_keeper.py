"""Keeps the gateway's process running, whoever ended it; finds it, and ends it."""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from slm_operator.adapters.pod_status import LOCAL_ADDRESS
from slm_operator.local import locks
from slm_operator.local.lifecycle import EXIT_RUNNING, POLL_SECONDS, log_tail, spawn
from slm_operator.local.paths import LocalPaths

GATEWAY_COMMAND = (sys.executable, "-m", "slm_operator.local.gateway")
LOOK_SECONDS = 0.2
"""How often the gateway is looked for: one system call each."""
HEALTHY_SECONDS = 10.0
"""A gateway that ran this long is started again at once."""
MAX_DELAY_SECONDS = 5.0
"""Longest wait before a gateway that cannot start is started again."""
END_SECONDS = 3.0
"""Longest wait for a gateway whose engines have ended."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that accepts requests."""

    pid: int
    port: int


def find_gateway(paths: LocalPaths) -> RunningGateway | None:
    """The gateway, once it accepts requests."""
    words = locks.read(paths.gateway_lock) or []
    return RunningGateway(int(words[0]), int(words[1])) if words[1:] else None


def await_gateway(paths: LocalPaths, timeout_seconds: float) -> RunningGateway | None:
    """The gateway as soon as it accepts requests; None when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while (found := find_gateway(paths)) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found


def gateway_url(gateway: RunningGateway) -> str:
    """Its address; OpenAI's clients append /v1, Ollama's nothing."""
    return f"http://{LOCAL_ADDRESS}:{gateway.port}"


class GatewayKeeper:
    """The daemon's part."""

    def __init__(self, paths: LocalPaths) -> None:
        self._paths = paths
        self._child: subprocess.Popen[bytes] | None = None

    async def run(self) -> None:
        """Start a gateway whenever there is none, until cancelled; the one that runs then goes on."""
        delay = LOOK_SECONDS
        while True:
            if locks.read(self._paths.gateway_lock) is None:
                began = time.monotonic()
                self._child = spawn(GATEWAY_COMMAND, self._paths.gateway_log)
                code = await self._wait_while_alone(self._child)
                if code not in (None, 0, EXIT_RUNNING):
                    problem = f"exit code {code}: {log_tail(self._paths.gateway_log)}"
                    log.warning("the gateway ended", extra={"error": problem})
                lasted = time.monotonic() - began
                delay = LOOK_SECONDS if lasted > HEALTHY_SECONDS else min(2 * delay, MAX_DELAY_SECONDS)
            await asyncio.sleep(delay)

    async def _wait_while_alone(self, child: "subprocess.Popen[bytes]") -> int | None:
        """The child's exit code; None when it holds the lock no longer and lets its last answers end."""
        held = False
        while child.poll() is None:
            words = locks.read(self._paths.gateway_lock)
            if held and words is None:
                return None
            held = held or bool(words and words[0] == str(child.pid))
            await asyncio.sleep(LOOK_SECONDS)
        return child.returncode

    def stop(self) -> list[psutil.Process]:
        """As ``stop_gateway``, and also the one that has just been started and holds no lock yet."""
        pids = {self._child.pid} if self._child is not None and self._child.poll() is None else set()
        return _terminate(pids | _holder(self._paths))


def stop_gateway(paths: LocalPaths) -> list[psutil.Process]:
    """Tell the gateway to end once its answers are complete; what this returns goes to ``end_gateway`` then."""
    return _terminate(_holder(paths))


def _holder(paths: LocalPaths) -> set[int]:
    words = locks.read(paths.gateway_lock)
    return {int(words[0])} if words else set()


def _terminate(pids: set[int]) -> list[psutil.Process]:
    told = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.send_signal(signal.SIGTERM)
            told.append(process)
    return told


def end_gateway(processes: Sequence[psutil.Process]) -> None:
    """Wait for the end of gateways that were told to, after that of all engines: no answer can come any more."""
    _, left = psutil.wait_procs(processes, END_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
