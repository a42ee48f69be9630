"""An engine that speaks OpenAI's API over a real socket and misbehaves on demand."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from slm_operator.gateway.directory import Endpoint

HOST = "127.0.0.1"


@dataclass
class Seen:
    """One request as the engine got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class StubEngine:
    """Answers at once unless told otherwise."""

    name: str = "engine-0"
    tokens: int = 3
    pause_seconds: float = 0.0
    """Before each token."""
    before_answer_seconds: float = 0.0
    """Before the head of any answer."""
    loading: bool = False
    """503, as llama-server says while it loads."""
    crash_before: int | None = None
    """The connection breaks before this token of a stream, or before the answer when it is 0."""
    last_words: bytes = b""
    """Event that such a stream ends with, and then as a whole one does."""
    finishes: bool = False
    """Whether a stream says why it ends."""
    status: int = 200
    answer: bytes | None = None
    """Body of every answer that is no stream, in place of the usual one."""
    content_type: str = "application/json"
    seen: list[Seen] = field(default_factory=list)
    left: int = 0
    """Clients that went away before their answer was complete."""
    working: int = 0
    most_working: int = 0
    slots: int = 4
    adapters: tuple[str, ...] = ()
    by_name: bool = False
    host: str = HOST
    port: int = 0
    _runner: web.ServerRunner | None = None

    async def start(self, port: int = 0) -> Endpoint:
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None), shutdown_timeout=0.001
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self.endpoint

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, self.host, self.port, slots=self.slots, adapters=self.adapters, by_name=self.by_name)

    @property
    def connections(self) -> int:
        return 0 if self._runner is None or self._runner.server is None else len(self._runner.server.connections)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.path_qs, dict(request.headers), body))
        self.working += 1
        self.most_working = max(self.most_working, self.working)
        try:
            return await self._answer(request, json.loads(body))
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.working -= 1

    async def _answer(self, request: web.BaseRequest, document: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(self.before_answer_seconds)
        if self.loading:
            return web.json_response({"error": {"message": "Loading model", "code": 503}}, status=503)
        if self.crash_before == 0:
            return self._crash(request)
        if self.status != 200 or self.answer is not None:
            answer = self.answer or b'{"error": {"message": "inner words", "code": null}}'
            return web.Response(status=self.status, body=answer, content_type=self.content_type)
        if request.path.endswith("embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
            usage = {"prompt_tokens": 2, "total_tokens": 2}
            return web.json_response(
                {"object": "list", "model": document["model"], "data": data, "usage": usage, "by": self.name}
            )
        return await (self._stream(request, document) if document.get("stream") else self._whole(document))

    async def _whole(self, document: dict[str, Any]) -> web.Response:
        await asyncio.sleep(self.pause_seconds * self.tokens)
        message: dict[str, Any] = {"role": "assistant", "content": " ".join(f"t{n}" for n in range(self.tokens))}
        reason = "stop"
        if document.get("tools"):
            function = {"name": document["tools"][0]["function"]["name"], "arguments": '{"city":"Bern"}'}
            message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
            reason = "tool_calls"
        if document.get("response_format", {}).get("type") == "json_schema":
            message["content"] = '{"city":"Bern"}'
        choice = {"index": 0, "message": message, "text": "t0 t1 t2", "finish_reason": reason, "logprobs": None}
        usage = {"prompt_tokens": 5, "completion_tokens": self.tokens, "total_tokens": 5 + self.tokens}
        answer = {"id": "a", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}
        return web.json_response({**answer, "model": document.get("model"), "by": self.name})

    async def _stream(self, request: web.BaseRequest, document: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        begin = len(_continued(document).split())
        for number in range(begin, self.tokens):
            if self.crash_before == number and self.last_words:
                await response.write(self.last_words + b"data: [DONE]\n\n")
                return response
            if self.crash_before == number:
                return self._crash(request)
            await asyncio.sleep(self.pause_seconds)
            if not response.prepared:
                await response.prepare(request)
            part = {"text": f"t{number} "} if "prompt" in document else {"delta": {"content": f"t{number} "}}
            await self._event(response, document, {"choices": [{"index": 0, **part, "finish_reason": None}]})
        if self.finishes:
            await self._event(response, document, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if self.crash_before == self.tokens:
            return self._crash(request)
        if (document.get("stream_options") or {}).get("include_usage"):
            usage = {
                "prompt_tokens": 5 + begin,
                "completion_tokens": self.tokens - begin,
                "total_tokens": 5 + self.tokens,
            }
            await self._event(response, document, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _event(self, response: web.StreamResponse, document: dict[str, Any], part: dict[str, Any]) -> None:
        event = {
            "id": f"of {self.name}",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": document.get("model"),
            **part,
        }
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    @staticmethod
    def _crash(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError


def _continued(document: dict[str, Any]) -> str:
    """The answer so far, with which the request asks to go on."""
    if isinstance(prompt := document.get("prompt"), str):
        return prompt[prompt.find("t0 ") :] if "t0 " in prompt else ""
    last = (document.get("messages") or [{}])[-1]
    return str(last["content"]) if last.get("role") == "assistant" else ""
