"""A model's name may say which adapter of a service a request is for; engines are told by number."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from slm_operator.gateway.directory import Canary, Endpoint
from slm_operator.gateway.proxy import MESSAGES
from tests.support.gateway import CHAT, Door, chat, open_gateway, until
from tests.support.stub_engine import StubEngine

HELD = ("french", "legal")
NAMES = [f"a{number}" for number in range(8)]


def engine(name: str = "engine-0", *adapters: str, **more: Any) -> StubEngine:
    return StubEngine(name, adapters=adapters or HELD, **more)


async def status(door: Door, model: str, **more: Any) -> int:
    return (await door.post(chat(model, **more)))[0]


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("default/qwen:legal", {"id": 1, "scale": 1.0}),
        ("qwen:french", {"id": 0, "scale": 1.0}),
        ("tiny:french", {"id": 0, "scale": 1.0}),
        ("default/qwen", {"id": 0, "scale": 0.0}),
    ],
)
async def test_the_engine_is_always_told_which_adapter_to_apply(model: str, asked: dict[str, Any]) -> None:
    first = engine()
    async with open_gateway(first, adapters=HELD, aliases=("tiny",), served_name="qwen") as door:
        assert await status(door, model) == 200
    assert first.seen[0].document == {**chat("qwen"), "lora": [asked]}


@pytest.mark.parametrize(
    ("model", "asked"), [("qwen:legal", "qwen:legal"), ("tiny:french", "qwen:french"), ("tiny", "qwen")]
)
async def test_an_engine_whose_requests_name_adapters_gets_the_name_and_no_number(model: str, asked: str) -> None:
    first = engine(by_name=True)
    async with open_gateway(first, adapters=HELD, aliases=("tiny",), served_name="qwen") as door:
        assert await status(door, f"default/{model}") == 200
    assert first.seen[0].document == chat(asked)


async def test_an_engine_without_adapters_gets_the_bytes_as_they_were_sent() -> None:
    first = StubEngine()
    async with open_gateway(first) as door:
        assert await status(door, "default/qwen") == 200
    assert "lora" not in first.seen[0].document


async def test_an_adapter_that_no_service_has_is_a_model_that_is_not_there() -> None:
    async with open_gateway(engine(), adapters=HELD) as door:
        code, _, answer = await door.post(chat("qwen:german"))
    assert (code, answer["error"]["code"]) == (404, "model_not_found")
    assert "The model 'qwen:german' does not exist or you may not use it" in answer["error"]["message"]


async def test_each_adapter_is_listed_beside_its_service() -> None:
    async with open_gateway(engine(), adapters=HELD) as door:
        async with door.session.get(f"{door.url}/v1/models") as answer:
            listed = [each["id"] for each in (await answer.json())["data"]]
        async with door.session.get(f"{door.url}/v1/models/default/qwen:legal") as answer:
            one = await answer.json()
        async with door.session.get(f"{door.url}/api/tags") as answer:
            tags = [each["name"] for each in (await answer.json())["models"]]
    assert listed == ["default/qwen", "default/qwen:french", "default/qwen:legal"]
    assert (one["id"], tags) == ("default/qwen:legal", ["qwen", "qwen:french", "qwen:legal"])


async def test_each_engine_is_told_by_its_own_numbers_while_they_differ() -> None:
    first, second = engine("first", "french", "legal"), engine("second", "legal", "french")
    async with open_gateway(first, second, adapters=HELD) as door:
        door.put(first)
        assert await status(door, "qwen:legal") == 200
        door.put(second)
        assert await status(door, "qwen:legal") == 200
    assert [each.seen[0].document["lora"][0]["id"] for each in (first, second)] == [1, 0]


async def test_while_engines_differ_each_request_goes_to_one_that_holds_its_adapter() -> None:
    first, second = engine("first", "french", slots=64), engine("second", "legal", slots=64)
    async with open_gateway(first, second, adapters=HELD) as door:
        for number in range(8):
            for name in HELD:
                assert await status(door, f"qwen:{name}", text=f"question {number}") == 200
    assert [len(each.seen) for each in (first, second)] == [8, 8]
    assert all(each.document["lora"] == [{"id": 0, "scale": 1.0}] for one in (first, second) for each in one.seen)


async def test_a_request_that_no_engine_holds_the_adapter_for_waits_for_one_and_holds_up_nobody() -> None:
    first, second = StubEngine("first"), engine("second")
    async with open_gateway(first, adapters=HELD) as door:
        held = asyncio.create_task(door.post(chat("qwen:legal")))
        await until(lambda: bool(door.wanted))
        assert (await door.post(chat("qwen")))[2]["by"] == "first"
        await second.start()
        door.put(first, second)
        assert (await held)[2]["by"] == "second"
        await second.stop()


async def test_who_waits_for_an_adapter_that_was_taken_away_is_told_at_once() -> None:
    first, other = engine(slots=1, pause_seconds=0.2), StubEngine("other")
    async with open_gateway(first, adapters=HELD, to_come=frozenset({"legal"})) as door:
        under_way = asyncio.create_task(door.post(chat("qwen:french")))
        await until(lambda: first.working == 1)
        waiting = [asyncio.create_task(door.post(chat(f"qwen:{name}"))) for name in HELD]
        await until(lambda: len(door.wanted) == 2)
        await other.start()
        gone = replace(door.service, endpoints=(other.endpoint,), adapters=())
        door.directory.put(gone)
        code, _, answer = await waiting[0]
        assert (code, answer["error"]["code"]) == (404, "model_not_found")
        assert "The model 'default/qwen:french' does not exist" in answer["error"]["message"]
        assert not waiting[1].done(), "engines are to hold that one, as the spec has it"
        door.directory.put(replace(gone, endpoints=(first.endpoint,), adapters=HELD))
        assert [(await each)[0] for each in (under_way, waiting[1])] == [200, 200]
        await other.stop()


async def test_a_canary_that_lacks_an_adapter_takes_it_away_from_nobody() -> None:
    class Tried(StubEngine):
        @property
        def endpoint(self) -> Endpoint:
            return replace(super().endpoint, canary=True)

    stable, tried = engine("stable", slots=64), Tried("tried", slots=64)
    async with open_gateway(stable, tried, adapters=HELD, canary=Canary("step", 99)) as door:
        by = [(await door.post(chat("qwen:legal", text=str(number))))[2]["by"] for number in range(10)]
    assert by == ["stable"] * 10


async def test_a_stream_goes_on_with_the_same_adapter_when_its_engine_crashes() -> None:
    first, second = (engine(name, tokens=5, pause_seconds=0.01) for name in ("first", "second"))
    first.crash_before = 2
    async with open_gateway(first, second, adapters=HELD) as door:
        door.put(first)
        async with door.session.post(door.url + CHAT, json=chat("qwen:legal", stream=True)) as answer:
            door.put(first, second)
            text = (await answer.read()).decode()
        await until(lambda: bool(door.records))
    assert text.endswith("data: [DONE]\n\n")
    assert second.seen[-1].document["messages"][-1]["role"] == "assistant"
    assert second.seen[-1].document["lora"] == [{"id": 1, "scale": 1.0}]


async def test_what_an_engine_has_cached_is_of_one_adapter() -> None:
    engines = [engine(name, *NAMES, slots=64) for name in ("first", "second")]
    async with open_gateway(*engines, adapters=tuple(NAMES)) as door:
        for _ in range(2):
            for name in NAMES:
                assert await status(door, f"qwen:{name}") == 200
    numbers = [{each.document["lora"][0]["id"] for each in one.seen} for one in engines]
    assert all(numbers)  # One prompt, several adapters: not all of them at one engine,
    assert not numbers[0] & numbers[1]  # and each adapter's always at the same.


async def test_anthropics_api_is_refused_where_engines_would_not_take_the_adapter() -> None:
    first = engine()
    async with open_gateway(first, adapters=HELD) as door:
        for model in ("qwen", "qwen:legal"):
            code, _, answer = await door.post(chat(model), MESSAGES)
            assert code == 400
            assert "A model with adapters is not served as /v1/messages: use" in answer["error"]["message"]
    assert first.seen == []


async def test_anthropics_api_goes_by_the_engine_that_was_found() -> None:
    """Where adapters have just come, the first engine has them before the service is told to."""
    first = engine()
    async with open_gateway(first) as door:
        assert (await door.post(chat("qwen"), MESSAGES))[0] == 400
    named = engine(by_name=True)
    async with open_gateway(named, adapters=HELD, served_name="qwen") as door:
        assert (await door.post(chat("qwen:legal"), MESSAGES))[0] == 200
    assert named.seen[0].document["model"] == "qwen:legal"
