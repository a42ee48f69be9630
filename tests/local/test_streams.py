"""An answer under way ends by itself, within the grace period, whatever is deleted or stopped meanwhile."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slm_operator.adapters import service_runner
from slm_operator.adapters.forwarder import Forwarder, is_unfinished
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.core.manifests.deployment import build_drain
from slm_operator.ports import ObjectKey
from tests.local.cli_support import Slm, has_ended, slm
from tests.local.kubelet_support import kubelet, until
from tests.local.test_deployments import KEY, SERVICE_KEY, address, deployment, ready, service

__all__ = ["slm"]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAMER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        if self.path == "/health":
            self.send_header("Content-Length", "0"); self.end_headers(); return
        self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
        for number in range(5):
            time.sleep(PAUSE)
            event = f"data: {number}\\n\\n".encode()
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(event), event))
        self.wfile.write(b"0\\r\\n\\r\\n")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def streamer(pause_seconds: float) -> dict[str, Any]:
    script = STREAMER.replace("PAUSE", str(pause_seconds))
    return deployment(command=[sys.executable, "-c", script])


async def begin_stream(
    cluster: SqliteCluster, pause_seconds: float = 0.4
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream of which the first event has come; it lasts as long as its writer is kept."""
    await cluster.apply(streamer(pause_seconds))
    await cluster.apply(service())
    await until(cluster, KEY, ready(1))
    reader, writer = await asyncio.open_connection("127.0.0.1", await address(cluster))
    writer.write(b"GET / HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
    await reader.readuntil(b"data: 0\n\n\r\n")
    return reader, writer


async def test_a_stream_ends_whole_when_everything_is_stopped(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        reader, writer = await begin_stream(cluster)
    assert (await reader.read()).endswith(b"data: 4\n\n\r\n0\r\n\r\n")
    writer.close()


async def test_down_lets_a_stream_end_and_then_ends_the_engine(slm: Slm) -> None:
    await asyncio.to_thread(slm.good, "up")
    cluster = slm.cluster()
    reader, writer = await begin_stream(cluster)
    (pod,) = await cluster.list("Pod")
    assert "the daemon has stopped" in await asyncio.to_thread(slm.good, "down")
    assert (await reader.read()).endswith(b"data: 4\n\n\r\n0\r\n\r\n")
    assert has_ended(pod["status"]["processId"])
    writer.close()
    cluster.close()


async def test_a_stream_ends_whole_when_its_service_and_engine_are_deleted(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        reader, writer = await begin_stream(cluster)
        port = await address(cluster)
        pod = (await cluster.list("Pod"))[0]["metadata"]["name"]
        for key in (SERVICE_KEY, KEY, ObjectKey("Pod", "default", pod)):
            await cluster.delete(key)
        await asyncio.sleep(0.3)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.read()).endswith(b"data: 4\n\n\r\n0\r\n\r\n")
        writer.close()
    writer.close()


async def test_a_slow_stream_is_not_taken_for_an_idle_connection(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        reader, writer = await begin_stream(cluster, pause_seconds=1.2)  # Longer than a connection may be quiet.
    assert (await reader.read()).endswith(b"0\r\n\r\n")
    writer.close()


async def test_connections_without_a_request_do_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with asyncio.timeout(15):
        async with kubelet(tmp_path) as cluster:
            stream, writer = await begin_stream(cluster, pause_seconds=0.05)
            await stream.read()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", await address(cluster))
            began = asyncio.get_running_loop().time()
        assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began < 4
        writer.close()


async def test_a_stream_without_an_end_is_cut_after_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_runner, "GRACE_SECONDS", 0.5)
    async with kubelet(tmp_path) as cluster:
        reader, writer = await begin_stream(cluster, pause_seconds=3)
        await cluster.delete(SERVICE_KEY)
        async with asyncio.timeout(2.5):
            assert b"data: 4" not in await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("data", "unfinished"),
    [
        (HEAD, True),
        (HEAD + b"9\r\ndata: 1\n\n\r\n", True),
        (b"9\r\ndata: 1\n\n\r\n", True),
        (b"9\r\ndata: 1\n\n\r\n0\r\n\r\n", False),
        (b"0\r\n\r\n", False),
        (HEAD + b"0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", False),
    ],
)
def test_only_the_middle_of_a_stream_is_unfinished(data: bytes, unfinished: bool) -> None:  # noqa: FBT001
    assert is_unfinished(data) is unfinished


async def test_a_connection_that_waits_for_an_engine_ends_with_its_forwarder() -> None:
    forwarder = Forwarder()
    await forwarder.listen(0)
    assert forwarder._server
    reader, writer = await asyncio.open_connection("127.0.0.1", forwarder._server.sockets[0].getsockname()[1])
    await asyncio.sleep(0.1)
    await forwarder.close()
    async with asyncio.timeout(1):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_on_a_cluster_an_engine_is_not_told_to_end_while_anybody_is_connected(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection((host, port))
        with server.accept()[0], subprocess.Popen(build_drain(port, 0)) as hook:
            with pytest.raises(subprocess.TimeoutExpired):
                hook.wait(2)
            client.close()
            assert hook.wait(30) == 0
