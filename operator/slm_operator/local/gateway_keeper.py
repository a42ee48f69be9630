"""Keeps the gateway's process running, whoever ended it; finds it, and ends it."""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

import psutil

from slm_operator.adapters.pod_status import LOCAL_ADDRESS
from slm_operator.local import locks
from slm_operator.local.lifecycle import log_tail, spawn
from slm_operator.local.paths import LocalPaths

GATEWAY_COMMAND = (sys.executable, "-m", "slm_operator.local.gateway")
EXIT_MALFORMED: Final = 2
"""The gateway's exit code when its settings, port or files cannot be used."""
EXIT_HELD: Final = 5
"""The gateway's exit code when another one runs."""
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


def gateway_url(gateway: RunningGateway) -> str:
    """Its address; OpenAI's clients append /v1, Ollama's nothing."""
    return f"http://{LOCAL_ADDRESS}:{gateway.port}"


async def keep_gateway(paths: LocalPaths) -> None:
    """Start a gateway whenever there is none, until cancelled; the one that runs then goes on."""
    delay = LOOK_SECONDS
    while True:
        if locks.read(paths.gateway_lock) is None:
            began = time.monotonic()
            code = await _wait_while_alone(spawn(GATEWAY_COMMAND, paths.gateway_log), paths)
            if code not in (None, 0, EXIT_HELD):
                log.warning("the gateway ended", extra={"error": f"exit code {code}: {log_tail(paths.gateway_log)}"})
            delay = LOOK_SECONDS if time.monotonic() - began > HEALTHY_SECONDS else min(2 * delay, MAX_DELAY_SECONDS)
        await asyncio.sleep(delay)


async def _wait_while_alone(child: "subprocess.Popen[bytes]", paths: LocalPaths) -> int | None:
    """The child's exit code; None when it holds the lock no longer and lets its last answers end."""
    held = False
    while child.poll() is None:
        words = locks.read(paths.gateway_lock)
        if held and words is None:
            return None
        held = held or bool(words and words[0] == str(child.pid))
        await asyncio.sleep(LOOK_SECONDS)
    return child.returncode


def stop_gateway(paths: LocalPaths) -> psutil.Process | None:
    """Tell the gateway to end once its answers are complete; it goes to ``end_gateway`` then. None: there is none."""
    words = locks.read(paths.gateway_lock)
    if not words:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(words[0]))
        process.send_signal(signal.SIGTERM)
        return process
    return None


def end_gateway(process: psutil.Process | None) -> None:
    """Wait for the end of a gateway that was told to, after that of all engines: no answer can come any more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process is not None:
            try:
                process.wait(END_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
