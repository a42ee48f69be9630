"""What users do with OpenAI's own client, against the gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from slm_operator.gateway.directory import About
from slm_operator.gateway.limits import Limits
from tests.support.gateway import Door, open_gateway, until
from tests.support.stub_engine import StubEngine

MODEL = "default/qwen"
QUESTION = [{"role": "user", "content": "Where is the bear?"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "schema": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}


@asynccontextmanager
async def client_of(door: Door, retries: int = 0) -> AsyncIterator[Any]:
    # Untyped: its types want literals of every message, which say nothing here.
    async with AsyncOpenAI(base_url=door.url + "/v1", api_key="unused", max_retries=retries) as client:
        yield client


async def test_chat_is_answered_whole() -> None:
    async with open_gateway(StubEngine()) as door, client_of(door) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.choices[0].message.content == "t0 t1 t2"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_chat_is_streamed_with_usage() -> None:
    async with open_gateway(StubEngine(tokens=5)) as door, client_of(door) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        await until(lambda: bool(door.records))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == "t0 t1 t2 t3 t4 "
    assert chunks[-1].usage.completion_tokens == 5
    assert (door.records[0].completion_tokens, door.records[0].estimated) == (5, False)


async def test_tools_pass_in_both_directions() -> None:
    engine = StubEngine()
    async with open_gateway(engine) as door, client_of(door) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=QUESTION, tools=[TOOL])
    assert engine.seen[0].document["tools"] == [TOOL]
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Bern"}')


async def test_a_json_schema_reaches_the_engine() -> None:
    engine = StubEngine()
    async with open_gateway(engine) as door, client_of(door) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=SCHEMA)
    assert engine.seen[0].document["response_format"] == SCHEMA
    assert answer.choices[0].message.content == '{"city":"Bern"}'


async def test_embeddings_are_answered() -> None:
    async with open_gateway(StubEngine(), about=About(task="embed")) as door, client_of(door) as client:
        answer = await client.embeddings.create(model=MODEL, input="bear", encoding_format="float")
    assert answer.data[0].embedding == [0.5, -0.25]


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("generate", "/v1/embeddings"),
        ("generate", "/v1/rerank"),
        ("embed", "/v1/chat/completions"),
        ("rerank", "/v1/completions"),
        ("rerank", "/v1/embeddings"),
        ("embed", "/api/chat"),
    ],
)
async def test_what_a_model_is_not_served_for_reaches_no_engine(task: str, path: str) -> None:
    engine = StubEngine()
    async with open_gateway(engine, about=About(task=task)) as door:
        body = {"model": MODEL, "input": "a", "prompt": "a", "messages": QUESTION}
        status, _, answer = await door.post(body, path)
    assert (status, engine.seen, door.records[0].verdict) == (400, [], "wrong_task")
    assert "the field spec.task of its service says for what" in str(answer)


async def test_models_are_listed_and_retrieved() -> None:
    async with open_gateway(StubEngine()) as door, client_of(door) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "default"


async def test_a_stream_that_is_closed_early_ends_the_engines_work() -> None:
    engine = StubEngine(tokens=1000, pause_seconds=0.01)
    async with open_gateway(engine) as door, client_of(door) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        async for _ in stream:
            await stream.close()
            break
        await until(lambda: engine.left == 1)


async def test_errors_are_the_clients_own_exceptions() -> None:
    engine = StubEngine(status=500)
    async with open_gateway(engine) as door, client_of(door) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist or you may not use it"):
            await client.chat.completions.create(model="none", messages=QUESTION)
        with pytest.raises(openai.InternalServerError, match="The engine failed while it worked on this request"):
            await client.chat.completions.create(model=MODEL, messages=QUESTION)


async def test_a_stream_that_breaks_off_raises_and_does_not_end_quietly() -> None:
    async with (
        open_gateway(StubEngine(tokens=5, crash_before=2, pause_seconds=0.01)) as door,
        client_of(door) as client,
    ):
        stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        with pytest.raises(openai.APIError, match="The engine failed"):
            async for _ in stream:
                pass


async def test_a_stream_from_zero_waits_with_comments_that_the_client_leaves_out() -> None:
    engine = StubEngine()
    async with open_gateway(limits=Limits(keep_alive_seconds=0.02)) as door, client_of(door) as client:
        asked = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True))
        await until(lambda: bool(door.wanted))
        await asyncio.sleep(0.1)
        await engine.start()
        door.put(engine)
        chunks = [chunk async for chunk in await asked]
        await engine.stop()
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "t0 t1 t2 "


async def test_a_client_that_tries_again_gets_through_a_full_queue() -> None:
    engine = StubEngine(pause_seconds=0.2, slots=1)
    limits = Limits(queue_length=1, retry_after_seconds=1)
    async with open_gateway(engine, limits=limits) as door, client_of(door, retries=5) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model=MODEL, messages=QUESTION) for _ in range(4))
        )
        assert any(record.status == 429 for record in door.records)
    assert len(answers) == 4
