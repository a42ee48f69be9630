"""What a gateway that is told to end still owes."""

import asyncio
import json
import socket
import time

import pytest

from slm_operator.gateway.limits import Limits
from tests.support.gateway import CHAT, chat, open_gateway, until
from tests.support.gateway_attacks import kept, sized
from tests.support.stub_engine import HOST, StubEngine

BODY = json.dumps(chat()).encode()


async def test_the_last_answer_on_a_connection_says_so_and_the_connection_ends() -> None:
    engine = StubEngine(pause_seconds=0.1)
    async with open_gateway(engine) as door:
        reader, writer = await asyncio.open_connection(HOST, door.port)
        writer.write(kept(sized()))
        await until(lambda: engine.working == 1)
        begun = time.monotonic()
        await door.listener.close(30.0)
        assert time.monotonic() - begun < 15, "it ends with its answers, not with the time for them"
        answer = await reader.read()
        writer.close()
    assert b"HTTP/1.1 200 OK\r\n" in answer
    assert b"\r\nConnection: close\r\n" in answer, "the client sends its next request elsewhere"


async def test_a_body_under_way_is_read_to_its_end() -> None:
    async with open_gateway(StubEngine()) as door:
        reader, writer = await asyncio.open_connection(HOST, door.port)
        request = kept(sized(BODY))
        writer.write(request[:-10])
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(door.listener.close(30.0))
        await asyncio.sleep(0.1)
        writer.write(request[-10:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        await closing
        writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_cut_off_is_cut_off_in_time_and_told_of_before_the_audit_closes(stream: bool) -> None:  # noqa: FBT001
    engine = StubEngine(pause_seconds=30.0)
    async with open_gateway(engine, limits=Limits(keep_alive_seconds=0.05)) as door:
        asking = asyncio.create_task(door.session.post(door.url + CHAT, json=chat(stream=stream)))
        await until(lambda: engine.working == 1)
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        await door.listener.close(3.0)
        assert time.monotonic() - begun < 5.5, "once the time for draining, not twice"
        assert [record.verdict for record in door.records] == ["cancelled"]
        await asyncio.wait([asking])


async def test_idle_connections_end_at_once() -> None:
    async with open_gateway(StubEngine()) as door:
        await door.post(chat())
        begun = time.monotonic()
        await door.listener.close(30.0)
        assert time.monotonic() - begun < 5


async def test_who_connected_in_the_last_moment_gets_an_answer_and_who_says_nothing_keeps_nobody() -> None:
    async with open_gateway(StubEngine()) as door:
        (reader, writer), (_, silent) = [await asyncio.open_connection(HOST, door.port) for _ in range(2)]
        while not door.listener.connections:
            await asyncio.sleep(0)  # So that it is told to end between a connection and the first look at it.
        async with asyncio.timeout(15):
            closing = asyncio.create_task(door.listener.close(60.0))
            await asyncio.sleep(0.1)
            writer.write(kept(sized(BODY)))
            answer = await reader.read()
            await closing
        writer.close()
        silent.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_who_waits_to_be_accepted_when_it_ends_gets_an_answer() -> None:
    async with open_gateway(StubEngine()) as door:
        with socket.create_connection((HOST, door.port)) as client:  # The event loop has not heard of it yet.
            client.sendall(kept(sized(BODY)))
            async with asyncio.timeout(15):
                await door.listener.close(60.0)
            answer = client.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
