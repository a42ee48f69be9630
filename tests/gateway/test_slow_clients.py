"""Clients that ask and do not read: what they hold must be bounded, and come back."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from slm_operator.gateway.directory import Endpoint, Service
from tests.gateway.test_attacks import exchange
from tests.support.gateway import LIMITS, open_gateway, until
from tests.support.gateway_attacks import BODY, sized
from tests.support.stub_engine import HOST, StubEngine

IMPATIENT = replace(LIMITS, unread_seconds=0.2)


@contextmanager
def deaf(port: int) -> Iterator[socket.socket]:
    """A client that never reads."""
    with socket.create_connection((HOST, port)) as client:
        client.setblocking(False)  # noqa: FBT003 (as the standard library has it)
        yield client


async def send(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


async def test_a_client_that_stops_reading_a_stream_gives_its_slot_back() -> None:
    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        try:
            while True:
                writer.write(b"data: x\n\n" * 8192)
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(pour, HOST, 0)
    async with open_gateway(limits=IMPATIENT) as door:
        endpoint = Endpoint("pouring", HOST, server.sockets[0].getsockname()[1])
        door.directory.replace([Service("default", "qwen", endpoints=(endpoint,))])
        with deaf(door.port) as client:
            await send(client, sized(b'{"model":"qwen","stream":true,"messages":[]}'))
            await until(lambda: door.gateway.admissions.loads().get("default/qwen") == (1, 0, 1))
            await until(lambda: door.gateway.admissions.loads()["default/qwen"] == (0, 0, 1))
    assert [record.verdict for record in door.records] == ["cancelled"]
    server.close()


async def test_a_client_that_never_reads_a_whole_answer_is_hung_up_on() -> None:
    engine = StubEngine(answer=b'{"data": "' + b"x" * 16 * 2**20 + b'"}')
    async with open_gateway(engine, limits=IMPATIENT) as door:
        with deaf(door.port) as client:
            await send(client, sized())
            await until(lambda: bool(door.records))
            await until(lambda: not door.listener.connections)


async def test_a_client_that_reads_slowly_is_waited_for() -> None:
    engine = StubEngine(answer=b'{"data": "' + b"x" * 8 * 2**20 + b'"}')
    patience = 1.0
    async with open_gateway(engine, limits=replace(LIMITS, unread_seconds=patience)) as door:
        reader, writer = await asyncio.open_connection(HOST, door.port)
        writer.write(sized())
        received, begun = 0, time.monotonic()
        while piece := await reader.read(2**20):
            received += len(piece)
            await asyncio.sleep(0.04)
        writer.close()
    assert time.monotonic() - begun > patience
    assert received > len(engine.answer or b"")


async def test_requests_one_after_another_are_not_answered_into_memory() -> None:
    async with open_gateway() as door:
        door.directory.replace([Service("default", f"a-model-with-a-long-name-{number:03}") for number in range(200)])
        assert 16_000 < len(await exchange(door.port, sized(b"", method="GET", path="/v1/models"))) < 32_000
        door.records.clear()
        with deaf(door.port) as client:
            await send(client, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
            before = -1
            while len(door.records) > before:
                before = len(door.records)
                await asyncio.sleep(0.5)
            assert 0 < before < 2000, "as many as sockets' buffers hold"
        await until(lambda: not door.listener.connections)


@pytest.mark.parametrize(("version", "told"), [(b"1.1", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"1.0", b"")])
async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(version: bytes, told: bytes) -> None:
    async with open_gateway(StubEngine()) as door:
        reader, writer = await asyncio.open_connection(HOST, door.port)
        head, _, body = sized(BODY, "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/" + version).partition(b"{")
        writer.write(head)
        await asyncio.sleep(0.1)
        writer.write(b"{" + body)
        received = await reader.read()
        writer.close()
    assert received.startswith(told + b"HTTP/1.1 200 OK\r\n")


async def test_bodies_that_never_come_to_their_end_are_bounded_together() -> None:
    async with open_gateway(StubEngine(), limits=replace(LIMITS, bodies_bytes=3_000_000)) as door:
        clients = [await asyncio.open_connection(HOST, door.port) for _ in range(4)]
        for _, writer in clients:
            writer.write(sized(b" " * 1_000_000)[:-1])
        await asyncio.wait(
            [asyncio.create_task(reader.readexactly(1)) for reader, _ in clients], return_when=asyncio.FIRST_COMPLETED
        )
        await until(lambda: bool(door.records))
        assert [(record.verdict, record.status) for record in door.records] == [("overloaded", 503)]
        for _, writer in clients:
            writer.close()
        await until(lambda: len(door.records) == 4)
        await asyncio.gather(*(door.post({"model": "qwen", "messages": [], "x": "y" * 900_000}) for _ in range(3)))
        assert [record.verdict for record in door.records[4:]] == ["ok"] * 3, "what has left counts no longer"
