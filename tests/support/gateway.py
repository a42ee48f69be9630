"""A gateway over real sockets, with stub engines behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from slm_operator.gateway.access import Access, OpenAccess
from slm_operator.gateway.app import Gateway
from slm_operator.gateway.desk import Check
from slm_operator.gateway.directory import MemoryDirectory, Service
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.listening import Listener
from slm_operator.gateway.record import Record
from tests.support.stub_engine import HOST, StubEngine

CHAT = "/v1/chat/completions"
LIMITS = Limits(hold_seconds=5.0, cooling_seconds=0.05, drain_seconds=1.0)


def chat(model: str = "default/qwen", *, text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


@dataclass
class Door:
    """What a test has in hand."""

    listener: Listener
    gateway: Gateway
    directory: MemoryDirectory
    service: Service
    session: aiohttp.ClientSession
    records: list[Record] = field(default_factory=list)
    wanted: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def put(self, *engines: StubEngine, **more: Any) -> None:
        """The service has these engines now."""
        self.service = replace(self.service, endpoints=tuple(engine.endpoint for engine in engines), **more)
        self.directory.replace([self.service])

    async def post(self, document: Any, path: str = CHAT, **more: Any) -> tuple[int, Any, Any]:
        """Status, headers and JSON of an answer."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        async with self.session.post(self.url + path, data=data, **more) as answer:
            text = await answer.text()
            return answer.status, answer.headers, json.loads(text)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for what happens elsewhere in this event loop."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_gateway(
    *engines: StubEngine,
    limits: Limits = LIMITS,
    access: Access | None = None,
    check: Check = lambda: None,
    **service: Any,
) -> AsyncIterator[Door]:
    """A gateway with one service, default/qwen unless it is given a name, and these engines started behind it."""
    endpoints = tuple([await engine.start() for engine in engines])
    given = {"name": "qwen", "digest": "sha256:" + "a" * 64, "endpoints": endpoints, **service}
    directory = MemoryDirectory([Service("default", **given)])
    records: list[Record] = []
    wanted: list[tuple[str, int, int]] = []
    gateway = Gateway(directory, access or OpenAccess(), limits, demand=lambda *told: wanted.append(told), check=check)
    gateway.observe_with(records.append)
    listener = Listener(gateway)
    await listener.listen(HOST, 0)
    async with aiohttp.ClientSession() as session:
        door = Door(listener, gateway, directory, directory.services()[0], session, records, wanted)
        try:
            yield door
        finally:
            await listener.close(0.2)
            for engine in engines:
                await engine.stop()
