import asyncio
import socket
from pathlib import Path

import pytest

from slm_operator.adapters import forwarder as module
from slm_operator.adapters.forwarder import Forwarder
from slm_operator.ports import Manifest, ObjectKey
from tests.local.kubelet_support import kubelet, until


async def echo_server() -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, int(server.sockets[0].getsockname()[1])


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    _, answer = await asyncio.gather(send(), reader.read())
    writer.close()
    return answer


async def test_large_bodies_pass_whole_in_both_directions() -> None:
    server, port = await echo_server()
    forwarder = Forwarder()
    await forwarder.listen(0)
    forwarder.set_ready((port,))
    body = bytes(range(256)) * (1 << 15)
    assert await exchange(listening(forwarder), body) == body
    await forwarder.close()
    server.close()


async def test_a_connection_waits_for_a_pod_to_become_ready() -> None:
    server, port = await echo_server()
    forwarder = Forwarder()
    await forwarder.listen(0)
    waiting = asyncio.create_task(exchange(listening(forwarder), b"hello"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    forwarder.set_ready((port,))
    assert await waiting == b"hello"
    await forwarder.close()
    server.close()


async def test_a_connection_is_closed_when_nothing_becomes_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_SECONDS", 0.1)
    forwarder = Forwarder()
    await forwarder.listen(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listening(forwarder))
    assert await reader.read() == b""
    writer.close()
    await forwarder.close()


async def test_new_connections_go_where_the_fewest_are() -> None:
    (first, one), (second, two) = await echo_server(), await echo_server()
    forwarder = Forwarder()
    await forwarder.listen(0)
    forwarder.set_ready((one, two))
    links = [await asyncio.open_connection("127.0.0.1", listening(forwarder)) for _ in range(4)]
    for reader, writer in links:
        writer.write(b"x")
        assert await reader.read(1) == b"x"
    assert sorted(link.port for link in forwarder._links) == sorted([one, one, two, two])
    await forwarder.close()
    first.close()
    second.close()


async def test_a_taken_port_is_a_condition_and_is_tried_again(tmp_path: Path) -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    key = ObjectKey("Service", "default", "a")
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(service(port))
        found = await until(cluster, key, lambda status: status.get("conditions"))
        condition = found["status"]["conditions"][0]
        assert (condition["type"], condition["reason"]) == ("PortInUse", "PortInUse")
        assert condition["message"].startswith(f"Port {port} on 127.0.0.1 cannot be used: ")
        assert "End the program that holds it, or name another port" in condition["message"]
        taken.close()
        found = await until(cluster, key, lambda status: status.get("loadBalancer"))
        assert found["status"] == {
            "loadBalancer": {"ingress": [{"ip": "127.0.0.1", "ports": [{"port": port, "protocol": "TCP"}]}]}
        }


def service(port: int) -> Manifest:
    spec = {"selector": {"app": "a"}, "ports": [{"port": 80, "nodePort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "default"}, "spec": spec}


def listening(forwarder: Forwarder) -> int:
    assert forwarder._server is not None
    return int(forwarder._server.sockets[0].getsockname()[1])
