"""Ollama's own Python client against the gateway, in front of an engine that speaks OpenAI's API."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import ollama
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_operator.gateway.directory import About, Endpoint
from tests.support.gateway import open_gateway
from tests.support.stub_engine import HOST

ABOUT = About("Q8_0", "llama", 134_515_008, context_size=4096, size_bytes=145_000_000)
DIGEST = "sha256:" + "ab" * 32
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
PNG = b"\x89PNG\r\n\x1a\n"


class Engine:
    """What an engine would say to the last request it got, which is kept."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.path = ""
        self.breaks = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked, self.path = await request.json(), request.path
        if request.path == "/v1/embeddings":
            texts = self.asked["input"] if isinstance(self.asked["input"], list) else [self.asked["input"]]
            vectors = [{"index": at, "embedding": [float(len(text)), 0.5]} for at, text in enumerate(texts)]
            return web.json_response({"data": vectors, "usage": {"prompt_tokens": 7}})
        if self.asked.get("max_tokens", 0) > 4096:
            error = {"message": "the request exceeds the available context size", "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        return await self._stream(request) if self.asked.get("stream") else web.json_response(self._whole())

    def _message(self) -> dict[str, Any]:
        if self.asked.get("tools"):
            function = {"name": "add", "arguments": '{"a": 2, "b": 3}'}
            return {"content": None, "tool_calls": [{"index": 0, "id": "c1", "function": function}]}
        if self.asked.get("response_format"):
            return {"content": '{"age": 22}'}
        return {"content": "The sky is blue 🌈.", "reasoning_content": "Rayleigh."}

    def _whole(self) -> dict[str, Any]:
        message = self._message()
        choice = {"message": {"role": "assistant", **message}, "text": "def", "finish_reason": self._reason(message)}
        if self.path == "/v1/completions":
            del choice["message"]
        return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}

    def _reason(self, message: dict[str, Any]) -> str:
        return "tool_calls" if message.get("tool_calls") else "stop"

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for piece in self._pieces():
            # Cut in the middle of everything, also of characters.
            for at in range(0, len(piece), 7):
                await response.write(piece[at : at + 7])
        return response

    async def _pieces(self) -> AsyncIterator[bytes]:
        message = self._message()
        deltas = [{name: value} for name, value in message.items() if value]
        if message["content"]:
            deltas = [{"reasoning_content": "Rayleigh."}, *({"content": letter} for letter in message["content"])]
        yield b": waiting\n\n"
        for delta in deltas:
            yield self._event({"choices": [{"delta": delta, "finish_reason": None}]})
            if self.breaks:
                return
        yield self._event({"choices": [{"delta": {}, "finish_reason": self._reason(message)}]})
        yield self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}})
        yield b"data: [DONE]\n\n"

    @staticmethod
    def _event(document: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
async def client(engine: Engine, request: pytest.FixtureRequest) -> AsyncIterator[ollama.AsyncClient]:
    """Of a model that is served to generate, or for what the test says."""
    about = replace(ABOUT, task=getattr(request, "param", "generate"))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.answer)
    behind = TestServer(app)
    await behind.start_server()
    endpoint = Endpoint("engine-0", HOST, int(behind.port or 0))
    async with (
        open_gateway(endpoints=(endpoint,), name="smol", served_name="smol", digest=DIGEST, about=about) as door,
        ollama.AsyncClient(host=door.url) as connected,
    ):
        yield connected
    await behind.close()


QUESTION = [{"role": "user", "content": "why is the sky blue?"}]


async def test_a_chat(client: ollama.AsyncClient, engine: Engine) -> None:
    told = await client.chat("smol:latest", QUESTION, options={"num_predict": 64, "temperature": 0, "seed": 1})
    assert told.message.content == "The sky is blue 🌈."
    assert told.message.thinking == "Rayleigh."
    assert (told.done, told.done_reason, told.prompt_eval_count, told.eval_count) == (True, "stop", 5, 9)
    assert told.total_duration is not None
    assert told.total_duration > 0
    assert (engine.path, engine.asked["model"], engine.asked["max_tokens"]) == ("/v1/chat/completions", "smol", 64)


async def test_a_chat_that_streams(client: ollama.AsyncClient) -> None:
    parts = [part async for part in await client.chat("smol", QUESTION, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "The sky is blue 🌈."
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[0].message.thinking == "Rayleigh."
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 9)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_left_out_is_named_in_a_header(client: ollama.AsyncClient, stream: bool) -> None:  # noqa: FBT001
    options = {"tempature": 1, "a\r\nX-Evil: ä": 1}
    asked = {"model": "smol", "messages": QUESTION, "stream": stream, "options": options}
    answer = await client._client.post("/api/chat", json=asked)
    assert answer.headers["X-Slm-Left-Out"] == (
        "options.tempature is not known and was ignored; options.a??X-Evil: ? is not known and was ignored"
    )
    assert "X-Evil" not in answer.headers
    many = await client._client.post("/api/chat", json={**asked, "options": {"x" * 100_000: 1}})
    assert (many.status_code, len(many.headers["X-Slm-Left-Out"])) == (200, 2048)


async def test_a_chat_without_thinking(client: ollama.AsyncClient, engine: Engine) -> None:
    told = await client.chat("smol", QUESTION, think=False)
    assert (told.message.thinking, told.message.content) == (None, "The sky is blue 🌈.")
    assert engine.asked["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_from_a_function_and_back(client: ollama.AsyncClient, engine: Engine, stream: bool) -> None:  # noqa: FBT001
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    told = await client.chat("smol", QUESTION, tools=[add], stream=stream)  # type: ignore[call-overload]
    parts = [part async for part in told] if stream else [told]
    calls = [call for part in parts for call in part.message.tool_calls or []]
    assert engine.asked["tools"][0]["function"]["name"] == "add"
    assert [(call.function.name, call.function.arguments) for call in calls] == [("add", {"a": 2, "b": 3})]
    result = {"role": "tool", "content": str(add(**calls[0].function.arguments)), "tool_name": "add"}
    message = next(part.message for part in parts if part.message.tool_calls)
    await client.chat("smol", [*QUESTION, message, result])
    sent = engine.asked["messages"]
    assert (sent[2]["content"], sent[2]["tool_call_id"]) == ("5", sent[1]["tool_calls"][0]["id"])
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 2, "b": 3}


async def test_a_json_schema(client: ollama.AsyncClient, engine: Engine) -> None:
    told = await client.chat("smol", QUESTION, format=SCHEMA)
    assert json.loads(told.message.content or "") == {"age": 22}
    assert engine.asked["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_an_image(client: ollama.AsyncClient, engine: Engine) -> None:
    await client.chat("smol", [{"role": "user", "content": "what is it?", "images": [PNG]}])
    assert engine.asked["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


async def test_generate(client: ollama.AsyncClient, engine: Engine) -> None:
    told = await client.generate("smol", "why is the sky blue?", system="be brief")
    assert (told.response, told.thinking, told.done_reason) == ("The sky is blue 🌈.", "Rayleigh.", "stop")
    parts = [part async for part in await client.generate("smol", "why?", stream=True)]
    assert "".join(part.response or "" for part in parts) == "The sky is blue 🌈."
    raw = await client.generate("smol", "[INST] hi [/INST]", raw=True)
    assert (raw.response, engine.path) == ("def", "/v1/completions")


async def test_a_model_is_loaded_and_unloaded(client: ollama.AsyncClient, engine: Engine) -> None:
    assert (await client.generate("smol")).done_reason == "load"
    assert (await client.chat("smol", [], keep_alive=0)).done_reason == "unload"
    assert engine.asked == {}


@pytest.mark.parametrize("client", ["embed"], indirect=True)
async def test_embeddings(client: ollama.AsyncClient) -> None:
    told = await client.embed("smol", ["a", "four"])
    assert (told.embeddings, told.prompt_eval_count) == ([[1.0, 0.5], [4.0, 0.5]], 7)
    assert (await client.embeddings("smol", "four")).embedding == [4.0, 0.5]


async def test_the_catalogue(client: ollama.AsyncClient) -> None:
    models = (await client.list()).models
    assert [(model.model, model.size, model.details.parameter_size if model.details else "") for model in models] == [
        ("smol", 145_000_000, "134.52M")
    ]
    shown = await client.show("smol")
    assert (shown.capabilities, (shown.modelinfo or {})["llama.context_length"]) == (["completion", "tools"], 4096)
    running = (await client.ps()).models
    assert [(model.name, model.size_vram) for model in running] == [("smol", 0)]


async def test_pull(client: ollama.AsyncClient) -> None:
    assert (await client.pull("smol")).status == "success"
    steps = [step.status async for step in await client.pull("smol", stream=True)]
    assert (steps[0], steps[-1]) == ("pulling manifest", "success")
    with pytest.raises(ollama.ResponseError, match="apply an SLMModel and an InferenceService") as caught:
        await client.pull("llama3.2")
    assert caught.value.status_code == 404


async def test_errors_are_the_clients_own(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        await client.chat("nope", QUESTION)
    assert caught.value.status_code == 404
    answer = await client._client.post("/api/chat", content=b'{"model": "\\ud83d"}')
    assert (answer.status_code, answer.json()) == (404, {"error": "model '?' not found"})
    with pytest.raises(ollama.ResponseError, match="the request exceeds the available context size") as caught:
        await client.chat("smol", QUESTION, options={"num_predict": 100_000})
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match='option "seed" must be of type integer'):
        await client.chat("smol", QUESTION, options={"seed": "x"})
    with pytest.raises(ollama.ResponseError, match="/api/delete is not offered here") as caught:
        await client.delete("smol")
    assert caught.value.status_code == 403


async def test_an_answer_that_breaks_off_is_no_whole_one(client: ollama.AsyncClient, engine: Engine) -> None:
    engine.breaks = True
    parts = await client.chat("smol", QUESTION, stream=True)
    with pytest.raises(ollama.ResponseError, match="the engine's answer ended before it was complete"):
        async with asyncio.timeout(30):
            [part async for part in parts]
