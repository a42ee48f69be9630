"""Answers of every framing that HTTP/1.1 allows, and of some that it does not, byte by byte over a real socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest

from slm_operator.gateway.connection import BUFFER_BYTES
from slm_operator.gateway.directory import Endpoint
from slm_operator.gateway.limits import Limits
from tests.support.gateway import CHAT, Door, chat, open_gateway, until

ONCE = Limits(resends=0)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))


@asynccontextmanager
async def scripted(*pieces: bytes, limits: Limits = ONCE, hang: bool = False) -> AsyncIterator[Door]:
    """A gateway before an engine that sends these bytes for the first request of a connection, then closes it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        if hang:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with open_gateway(limits=limits) as door:
        endpoint = Endpoint("scripted", "127.0.0.1", server.sockets[0].getsockname()[1])
        door.service = type(door.service)("default", "qwen", endpoints=(endpoint,))
        door.directory.replace([door.service])
        yield door
    server.close()


async def test_a_connection_that_its_engine_closed_meanwhile_costs_no_attempt() -> None:
    """As an engine does that has been idle for its five seconds in the very moment in which a request comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (OK + b'Content-Length: 8\r\n\r\n{"a": 1}', b""):
            await read_request(reader)
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with open_gateway(limits=ONCE) as door:
        endpoint = Endpoint("closing", "127.0.0.1", server.sockets[0].getsockname()[1])
        door.directory.replace([type(door.service)("default", "qwen", endpoints=(endpoint,))])
        assert [(await door.post(chat()))[0] for _ in range(4)] == [200] * 4
        await until(lambda: len(door.records) == 4)
        assert [record.attempts for record in door.records] == [1] * 4
    server.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b'Content-Length: 8\r\n\r\n{"a": 1}',),
        tuple(bytes([each]) for each in OK + b'Content-Length: 8\r\n\r\n{"a": 1}'),
        (OK + b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n', b'5\r\n": 1}\r\n0\r\n\r\n'),
        (OK + b'Connection: close\r\n\r\n{"a"', b": 1}"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", OK + b'Content-Length: 8\r\n\r\n{"a": 1}'),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b'Content-Length: 8\r\n\r\n{"a": 1}',),
        (b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", b'{"a": 1}'),
    ],
)
async def test_every_framing_of_a_whole_answer_is_understood(pieces: Sequence[bytes]) -> None:
    async with scripted(*pieces) as door:
        assert (await door.post(chat()))[::2] == (200, {"a": 1})


@pytest.mark.parametrize(
    "pieces",
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n",),
        (b"",),
        (OK + b'Content-Length: 9\r\n\r\n{"a": 1}',),
        (OK + b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n',),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",),
        (OK + b"Content-Length: 3\r\nContent-Length: 8\r\n\r\n{}",),
        (OK + b'Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n0\r\n\r\n',),
        (OK + b"X: " + b"y" * 70_000,),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,),
    ],
)
async def test_an_answer_that_is_broken_becomes_a_502(pieces: Sequence[bytes]) -> None:
    async with scripted(*pieces) as door:
        status, _, answer = await door.post(chat())
    assert (status, answer["error"]["code"]) == (502, "engine_failed")


async def test_a_second_answer_is_never_taken_for_the_next_requests() -> None:
    one = OK + b'Content-Length: 8\r\n\r\n{"a": 1}'
    two = OK + b'Content-Length: 8\r\n\r\n{"a": 2}'
    async with scripted(one + two, hang=True) as door:
        for _ in range(3):
            assert (await door.post(chat()))[2] == {"a": 1}
    async with scripted(one, two, hang=True) as door:
        for _ in range(3):
            assert (await door.post(chat()))[2] == {"a": 1}
            await asyncio.sleep(0.02)


async def test_an_answer_that_never_ends_is_given_up() -> None:
    async with scripted(OK + b"Content-Length: 8\r\n\r\n{", limits=Limits(silence_seconds=0.1), hang=True) as door:
        status, _, answer = await door.post(chat())
    assert (status, answer["error"]["code"]) == (504, "engine_timeout")


@pytest.mark.parametrize("more", [{"silence_seconds": 0.1}, {"total_seconds": 0.1}])
async def test_an_answer_without_a_length_that_is_given_up_never_looks_complete(more: dict[str, float]) -> None:
    limits = Limits(resends=0, **more)  # type: ignore[arg-type]
    async with scripted(OK + b'Connection: close\r\n\r\n{"a": 1}', limits=limits, hang=True) as door:
        status, _, answer = await door.post(chat())
    assert (status, answer["error"]["code"]) == (504, "engine_timeout")
    events = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n"
    async with scripted(events, limits=limits, hang=True) as door:
        async with door.session.post(door.url + CHAT, json=chat(stream=True)) as broken:
            with pytest.raises(aiohttp.ClientPayloadError):
                await broken.read()
        await until(lambda: bool(door.records))
    assert door.records[0].verdict == "truncated"


async def test_an_engine_whose_stream_makes_no_sense_is_hung_up_on_and_record_and_log_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b"data: {oops\n\n"
    async with scripted(*events, hang=True) as door:
        async with door.session.post(door.url + "/api/chat", json=chat("qwen")) as answer:
            assert b"not of OpenAI's form" in await answer.read()
        await until(lambda: bool(door.records))
    (record,) = door.records
    assert record.verdict == "truncated"
    assert f"request {record.request_id}: engine {record.endpoint} failed (truncated)" in caplog.text


async def test_an_answer_over_the_limit_is_not_read_on() -> None:
    many = [b"x" * 50_000] * 40
    async with scripted(OK + b"Connection: close\r\n\r\n", *many, limits=Limits(answer_bytes=100_000)) as door:
        assert (await door.post(chat()))[0] == 502


async def test_a_client_that_does_not_read_stops_the_engine_and_not_the_gateway() -> None:
    sent = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"data: x\n\n" * 8192)
            await writer.drain()
            sent += 9 * 8192

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    async with open_gateway() as door:
        endpoint = Endpoint("pouring", "127.0.0.1", server.sockets[0].getsockname()[1])
        door.directory.replace([type(door.service)("default", "qwen", endpoints=(endpoint,))])
        answer = await door.session.post(door.url + CHAT, json=chat(stream=True))
        await until(lambda: sent > BUFFER_BYTES)
        before, stood_since = -1, time.monotonic()
        async with asyncio.timeout(20):
            while time.monotonic() - stood_since < 0.3:
                if sent != before:
                    before, stood_since = sent, time.monotonic()
                await asyncio.sleep(0.02)
        assert sent < 64 * 2**20, "what sockets and buffers hold, and no more"
        answer.close()
    server.close()
