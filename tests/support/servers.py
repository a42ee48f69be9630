"""A real llama-server on a port of this machine, for as long as a test asks it."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from slm_pipelines.tools.llama_cpp import Engine


@contextmanager
def run_server(engine: Engine, model: Path, folder: Path, *words: str) -> Iterator[str]:
    """Its address, once it answers; ``words`` are further arguments, and ``folder`` takes its log."""
    log, port = folder / "server.log", str(_free_port())
    command = [str(engine.program("llama-server")), "-m", str(model), "-c", "1024", "--host", "127.0.0.1", *words]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", port], stdout=output, stderr=output)
    try:
        yield _wait_for_address(process, log, port)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_address(process: subprocess.Popen[bytes], log: Path, port: str) -> str:
    address = f"http://127.0.0.1:{port}"
    client = httpx.Client(transport=httpx.HTTPTransport(retries=8))  # Waits 0.5, 1, 2, … seconds between attempts.
    while process.poll() is None:
        if client.get(f"{address}/health", timeout=60).status_code == 200:
            return address
    raise AssertionError(log.read_text())
