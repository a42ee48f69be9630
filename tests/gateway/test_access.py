"""Callers and what they may use, through the front door."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from slm_operator.gateway.access import Caller, KeyAccess
from slm_operator.gateway.directory import Service
from slm_operator.gateway.keys import ApiKey, format_key, hash_key
from slm_operator.gateway.refusal import Refusal
from tests.gateway.test_attacks import exchange
from tests.support.gateway import CHAT, Door, chat, open_gateway, until
from tests.support.gateway_attacks import sized
from tests.support.stub_engine import StubEngine

KEY = format_key(b"k" * 32)
NOW = 1_000_000.0
GOOD = ApiKey("default/ci", "default", (hash_key(KEY),), ("default/qwen",), expires=NOW + 1)


class Reviewer:
    """Knows one token, whose owner may use what RBAC would name."""

    async def identify(self, token: str) -> Caller | None:
        token.encode()  # As whoever sends or hashes it does.
        return Caller("system:serviceaccount:default:app", "default") if token == "jwt.of.app" else None

    async def may_use(self, caller: Caller, service: Service) -> bool:
        return caller.name.endswith(":app") and service.name == "qwen"


def access(*keys: ApiKey) -> KeyAccess:
    made = KeyAccess(lambda: NOW, Reviewer())
    made.replace(keys or (GOOD,))
    return made


async def ask(door: Door, token: str | None, **more: Any) -> tuple[int, Mapping[str, str], Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await door.post(chat(**more), headers=headers)


async def test_a_key_opens_its_models_and_the_record_names_it() -> None:
    async with open_gateway(StubEngine(), access=access()) as door:
        assert (await ask(door, KEY))[0] == 200
        assert (await door.post(chat("qwen"), headers={"X-Api-Key": KEY}))[0] == 200
        assert (await door.post(chat("qwen"), headers={"authorization": f"bearer {KEY}"}))[0] == 200
        await until(lambda: len(door.records) == 3)
    assert {record.caller for record in door.records} == {"default/ci"}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "Send an API key"),
        ({"Authorization": ""}, "Send an API key"),
        ({"Authorization": KEY}, "Send an API key"),
        ({"Authorization": f"Basic {KEY}"}, "Send an API key"),
        ({"Authorization": "Bearer "}, "Send an API key"),
        ({"Authorization": f"Bearer {format_key(b'w' * 32)}"}, "This API key is not known."),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, "It is not even complete"),
        ({"Authorization": f"Bearer {hash_key(KEY)}"}, "Send an API key"),
        ({"Authorization": f"Bearer slm_{hash_key(KEY)}"}, "This API key is not known."),
        ({"Authorization": "Bearer jwt.of.stranger"}, "Send an API key"),
        ({"Authorization": "Bearer " + "x" * 9000}, "Send an API key"),
    ],
)
async def test_without_a_key_that_counts_nothing_is_answered(headers: dict[str, str], message: str) -> None:
    engine = StubEngine()
    async with open_gateway(engine, access=access()) as door:
        for path in (CHAT, "/v1/models", "/v1/models/default/qwen"):
            method = "POST" if path == CHAT else "GET"
            async with door.session.request(method, door.url + path, json=chat(), headers=headers) as answer:
                document = await answer.json()
            assert (answer.status, document["error"]["code"]) == (401, "invalid_api_key"), path
            assert message in document["error"]["message"]
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert engine.seen == []


async def test_bytes_that_are_no_text_are_no_token_and_no_fault() -> None:
    async with open_gateway(StubEngine(), access=access()) as door:
        for name in ("Authorization: Bearer ", "X-Api-Key: "):
            request = sized(b"{}", f"{name}j\udcffwt", key=None)
            assert (await exchange(door.port, request)).startswith(b"HTTP/1.1 401 ")


async def test_a_key_works_until_its_very_second_and_no_longer_when_its_secret_is_gone() -> None:
    made = access(replace(GOOD, expires=NOW))
    async with open_gateway(StubEngine(), access=made) as door:
        status, _, answer = await ask(door, KEY)
        assert (status, answer["error"]["message"]) == (401, "This API key has expired: ask for a new one.")
        made.replace([GOOD])
        assert (await ask(door, KEY))[0] == 200
        made.replace([])
        assert (await ask(door, KEY))[0] == 401


async def test_another_tenants_model_looks_like_none_at_all() -> None:
    other = replace(GOOD, models=("default/llama",))
    async with open_gateway(StubEngine(), access=access(other)) as door:
        there = await ask(door, KEY, model="default/qwen")
        nowhere = await ask(door, KEY, model="default/nope")
        async with door.session.get(door.url + "/v1/models", headers={"Authorization": f"Bearer {KEY}"}) as answer:
            assert (await answer.json())["data"] == []
    assert there[0] == nowhere[0] == 404
    assert str(there[2]).replace("qwen", "nope") == str(nowhere[2])


async def test_a_key_without_models_is_a_403() -> None:
    async with open_gateway(StubEngine(), access=access(replace(GOOD, models=()))) as door:
        status, _, answer = await ask(door, KEY)
    assert (status, answer["error"]["code"]) == (403, "permission_denied")


async def test_service_accounts_are_reviewed() -> None:
    async with open_gateway(StubEngine(), access=access()) as door:
        assert (await ask(door, "jwt.of.app"))[0] == 200
        door.directory.replace([door.service, Service("default", "llama")])
        assert (await ask(door, "jwt.of.app", model="llama"))[0] == 404


async def test_a_model_is_not_called_missing_while_nobody_can_say_whether_it_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def may_use(_reviewer: Reviewer, _caller: Caller, _service: Service) -> bool:
        raise Refusal(503, "review_unavailable", "try again", 5)

    monkeypatch.setattr(Reviewer, "may_use", may_use)
    async with open_gateway(StubEngine(), access=access()) as door:
        headers = {"Authorization": "Bearer jwt.of.app"}
        for path in ("/api/show", "/api/pull", "/api/chat", CHAT):
            status, told, _ = await door.post(chat("qwen"), path, headers=headers)
            assert (status, told["Retry-After"]) == (503, "5"), path


async def test_limits_hold_and_say_when_to_try_again() -> None:
    engine = StubEngine(tokens=50)
    limited = replace(GOOD, tokens_per_minute=30, max_in_flight=1)
    async with open_gateway(engine, access=access(limited)) as door:
        assert (await ask(door, KEY))[0] == 200
        status, headers, answer = await ask(door, KEY)
        assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        assert 45 <= int(headers["Retry-After"]) <= 52, "55 tokens were taken of 30, which come back at one in 2 s"


async def test_a_client_that_left_gives_its_place_back() -> None:
    engine = StubEngine(pause_seconds=1)
    async with open_gateway(engine, access=access(replace(GOOD, max_in_flight=1))) as door:
        leaving = asyncio.create_task(ask(door, KEY))
        await until(lambda: engine.working == 1)
        assert (await ask(door, KEY))[0] == 429
        leaving.cancel()
        await until(lambda: engine.left == 1)
        engine.pause_seconds = 0
        assert (await ask(door, KEY))[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:11435", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "[::1]:11435", "Origin": "http://[::1]:3000"}, 200),
        ({"Host": "192.168.1.7", "Origin": "chrome-extension://abcdef"}, 200),
        ({"Host": "host.docker.internal:11435"}, 200),
        ({"Host": "gateway"}, 200),
        ({"Host": "LOCALHOST."}, 200),
        ({"Host": "rebound.example.org:11435"}, 403),
        ({"Host": "127.0.0.1.example.org"}, 403),
        ({"Host": "example.org."}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "[::ffff:127.0.0.1]:80"}, 200),
        ({"Host": "a@example.org"}, 403),
        ({"Host": "localhost", "Origin": "file://"}, 200),
        ({"Host": "localhost", "Origin": "https://example.org"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
    ],
)
async def test_without_keys_strangers_pages_may_nothing(headers: dict[str, str], status: int) -> None:
    async with open_gateway(StubEngine()) as door:
        for path in (CHAT, "/api/chat"):
            assert (await door.post(chat("qwen", stream=False), path, headers=headers))[0] == status
        async with door.session.get(door.url + "/v1/models", headers=headers) as answer:
            assert answer.status == status
