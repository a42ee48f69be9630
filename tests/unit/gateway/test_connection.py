"""A connection to an engine, without a socket."""

import asyncio
import gc
import socket
import sys
import weakref
from collections.abc import Iterable

import pytest

from slm_operator.gateway.connection import BUFFER_BYTES, Broken, EngineConnection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


class Wire(asyncio.Transport):
    """Remembers what was done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.aborted = False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def connect() -> tuple[EngineConnection, Wire]:
    connection, wire = EngineConnection(), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_a_connection_is_read_for_its_next_answer_although_the_last_one_was_left_unread() -> None:
    connection, wire = connect()
    connection.send(b"", b"", 5.0, 5.0)
    connection.data_received(OK % (BUFFER_BYTES + 1) + b"x" * (BUFFER_BYTES + 1))
    assert await connection.head() == 200
    assert not wire.reads
    if connection.finish():
        assert connection.reusable
        assert wire.reads
        connection.send(b"", b"", 5.0, 5.0)
        connection.data_received(OK % 1 + b"y")
        assert await connection.read_all(10) == b"y"
        assert wire.reads


async def test_a_connection_that_was_given_up_is_forgotten_at_once() -> None:
    connection, wire = connect()
    connection.send(b"", b"", 600.0, 3600.0)
    connection.abort()
    connection.connection_lost(None)
    kept = weakref.ref(connection)
    del connection, wire
    gc.collect()
    assert kept() is None


async def test_a_connection_that_its_engine_closed_after_an_answer_is_forgotten_at_once() -> None:
    connection, wire = connect()
    connection.send(b"", b"", 600.0, 3600.0)
    connection.data_received(OK % 1 + b"y")
    assert await connection.read_all(10) == b"y"
    assert connection.finish()
    connection.connection_lost(None)
    kept = weakref.ref(connection)
    del connection, wire
    gc.collect()
    assert kept() is None


async def test_a_large_answer_is_put_together_once() -> None:
    connection, _ = connect()
    count, piece = 4000, b"x" * 16_384
    connection.send(b"", b"", 5.0, 5.0)  # Twenty times what it takes; copying all that is there for each piece is more.
    connection.data_received(OK % (count * len(piece)))
    reading = asyncio.create_task(connection.read_all(count * len(piece)))
    for _ in range(count):
        connection.data_received(piece)
        await asyncio.sleep(0)
    assert len(await reading) == count * len(piece)


async def test_an_answer_over_the_limit_is_broken_wherever_its_pieces_end() -> None:
    connection, _ = connect()
    connection.send(b"", b"", 5.0, 5.0)
    connection.data_received(OK % 5 + b"12345")
    with pytest.raises(Broken, match="larger than 4 bytes"):
        await connection.read_all(4)


async def test_a_node_that_lost_its_power_is_noticed_long_before_an_engine_may_think_no_more() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_connection(EngineConnection, "127.0.0.1", port)
    found = transport.get_extra_info("socket")
    assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if sys.platform == "linux":
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    transport.abort()
    server.close()


async def test_trailers_change_no_headers() -> None:
    connection, _ = connect()
    connection.send(b"", b"", 5.0, 5.0)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.data_received(head + b"1\r\nx\r\n0\r\nContent-Type: c/d\r\nX-More: y\r\n\r\n")
    assert await connection.read_all(10) == b"x"
    assert connection.headers == {"content-type": "a/b", "transfer-encoding": "chunked"}
    assert connection.finish()
    connection.send(b"", b"", 5.0, 5.0)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Type: e/f\r\nContent-Length: 0\r\n\r\n")
    assert await connection.head() == 200
    assert connection.headers == {"content-type": "e/f", "content-length": "0"}
