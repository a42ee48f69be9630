"""The attack table, byte by byte: refused, nothing leaks, and the next good request works."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from slm_operator.gateway.access import KeyAccess
from slm_operator.gateway.directory import Service
from slm_operator.gateway.keys import ApiKey, format_key, hash_key
from slm_operator.gateway.limits import Limits
from tests.support.gateway import Door, open_gateway
from tests.support.gateway_attacks import ATTACKS, CHAT, CLOSED, Attack, sized
from tests.support.stub_engine import HOST, StubEngine

NOW = 1_000_000.0
LIMITS = Limits(body_bytes=250_000, body_seconds=0.3, idle_seconds=2.0)
NAMES = ("KEY", "WRONG", "EXPIRED", "REVOKED", "OTHER")
TOKENS = {name: format_key(name.encode().ljust(32, b"\0")) for name in NAMES}
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
LEAKS = (b"traceback", b"aiohttp", b"python", b"127.0.0.1", b"engine-0", b"uvloop", b'team-b/secret"')


def keys() -> list[ApiKey]:
    def key(name: str, namespace: str, expires: float) -> ApiKey:
        return ApiKey(f"{namespace}/{name}", namespace, (hash_key(TOKENS[name]),), (f"{namespace}/*",), expires)

    return [key("KEY", "default", NOW + 1), key("EXPIRED", "default", NOW - 1), key("OTHER", "team-b", NOW + 1)]


def with_keys(data: bytes) -> bytes:
    tokens = {**TOKENS, "HASH": hash_key(TOKENS["KEY"])}
    for name, token in tokens.items():
        data = re.sub(rf"(Bearer |key=){name}\b".encode(), rf"\g<1>{token}".encode(), data)
    return data


@asynccontextmanager
async def guarded() -> AsyncIterator[tuple[Door, StubEngine]]:
    engine = StubEngine()
    access = KeyAccess(lambda: NOW)
    access.replace(keys())
    async with open_gateway(engine, limits=LIMITS, access=access) as door:
        secret = Service("team-b", "secret", endpoints=(engine.endpoint,), aliases=("secret:Q4_K_M",))
        door.directory.replace([door.service, secret])
        yield door, engine


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    received = b""
    try:
        async with asyncio.timeout(10):
            writer.write(data)
            while piece := await reader.read(65_536):
                received += piece
    except ConnectionError:
        pass  # Refused bodies are not read to their end.
    finally:
        writer.close()
    return received


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_the_attack_is_refused_and_nothing_leaks_and_the_next_good_request_works(attack: Attack) -> None:
    async with guarded() as (door, engine):
        received = await exchange(door.port, with_keys(attack.data))
        statuses = [int(status) for status in STATUS.findall(received)]
        assert statuses == [status for status in attack.statuses if status != CLOSED]
        assert len(engine.seen) == attack.engine_requests
        assert {seen.path for seen in engine.seen} <= {CHAT}
        told = received.lower()
        assert not [leak for leak in LEAKS if leak in told and 200 not in statuses]
        assert TOKENS["KEY"].encode() not in received
        for status in statuses:
            assert status == 200 or b'"error"' in received, "refusals have OpenAI's shape"
        good = await exchange(door.port, with_keys(sized()))
        assert STATUS.findall(good) == [b"200"]
    assert len(engine.seen) == attack.engine_requests + 1


def test_the_table_is_as_long_as_promised_and_names_are_told_apart() -> None:
    assert len(ATTACKS) >= 60
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
