"""Streams on the local backend: none is cut whatever is replaced, from no engine to four and back."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any, Self

import aiohttp
import psutil
import pytest

from tests.local.gateway_support import apply, engines, tiny_service, url
from tests.support.backend import Backend, until

SCALING = {"minReplicas": 0, "maxReplicas": 4, "zeroAfterSeconds": 3, "scaleDownDelaySeconds": 0}
WAIT_SECONDS = 180


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with tiny_service(tmp_path_factory.mktemp("streams"), "streams", parallel=1, autoscaling=SCALING) as backend:
        yield backend


class Askers:
    """Clients that each ask for one stream after the other, and look whether it is whole."""

    def __init__(self, backend: Backend, count: int, tokens: int) -> None:
        self._backend, self._url = backend, url(backend)
        self._count, self._tokens = count, tokens
        self._ending = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._run()))
        self.answers = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def wait_for(self, more: int) -> None:
        """Until so many more answers came."""
        enough = self.answers + more
        until(
            lambda: self.answers >= enough or self.failures, f"no answers come after {self.answers}", WAIT_SECONDS, 0.1
        )

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
            for _ in range(self._count):
                tasks.create_task(self._ask_on(session))

    async def _ask_on(self, session: aiohttp.ClientSession) -> None:
        while not self._ending.is_set():
            try:
                problem = await self._ask(session)
            except aiohttp.ClientConnectorError:
                # One gateway has ended and the next is not there yet, or listens elsewhere: nothing was asked.
                self._url = await asyncio.to_thread(url, self._backend)
                continue
            except aiohttp.ClientError as error:
                problem = repr(error)
            if problem:
                self.failures.append(problem)
            self.answers += not problem

    async def _ask(self, session: aiohttp.ClientSession) -> str:
        """What is wrong with an answer; nothing when it is whole."""
        body = {
            "model": "tiny-service",
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": self._tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with session.post(f"{self._url}/v1/chat/completions", json=body) as answer:
            text = await answer.text()
        lines = text.split("\n")  # A model may write characters that end lines elsewhere, and not in such a stream.
        found = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        usage: dict[str, int] = next((each["usage"] for each in found if each.get("usage")), {})
        whole = "data: [DONE]" in text and usage.get("completion_tokens") == self._tokens
        return "" if whole else f"{answer.status}: {text[-500:]}"


def ready_engines(backend: Backend) -> int:
    status: dict[str, Any] = backend.get("slmsvc", "tiny-service")["status"]
    return int(status.get("readyReplicas", 0))


def test_from_no_engine_to_four_and_back_under_a_load_that_varies(backend: Backend) -> None:
    until(lambda: not engines(backend), "its engine stays", WAIT_SECONDS)
    with Askers(backend, 1, 16) as one:
        one.wait_for(5)
        with Askers(backend, 12, 64) as many:
            until(lambda: ready_engines(backend) == 4, "no four engines", WAIT_SECONDS, 0.2)
            many.wait_for(20)
        until(lambda: len(engines(backend)) == 1, "engines stay that nobody needs", WAIT_SECONDS, 0.2)
        one.wait_for(5)
    assert [*one.failures, *many.failures] == []
    until(lambda: not engines(backend), "the last engine stays", WAIT_SECONDS, 0.2)


@pytest.mark.timeout(1200)
def test_no_stream_is_cut_whatever_is_replaced(backend: Backend) -> None:
    """A thousand streams here; ten thousand where SLM_SOAK is set."""
    keep_asking(backend, 1_000, between=20)


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.skipif(not os.environ.get("SLM_SOAK"), reason="ten thousand streams take minutes: make soak")
def test_of_ten_thousand_streams_none_is_cut(backend: Backend) -> None:
    keep_asking(backend, 10_000, between=50)


def keep_asking(backend: Backend, wanted: int, *, between: int) -> None:
    """End and replace engines, gateway and daemon in turn, under a load that varies, until so many came.

    ``between`` two disturbances so many streams have to end.
    """
    contexts = itertools.cycle((512, 256))

    def replace_engines() -> None:
        before = {each["metadata"]["name"] for each in engines(backend)}
        apply(backend, parallel=1, autoscaling=SCALING, contextSize=next(contexts))
        until(
            lambda: before.isdisjoint(each["metadata"]["name"] for each in engines(backend)),
            "old ones stay",
            WAIT_SECONDS,
        )

    def crash_an_engine() -> None:
        process = psutil.Process(engines(backend)[0]["status"]["processId"])
        for child in process.children():
            child.kill()

    def replace_the_gateway() -> None:
        ending = backend.gateway().pid
        os.kill(ending, signal.SIGTERM)
        until(lambda: backend.gateway().pid != ending, "no new gateway")

    def kill_the_daemon() -> None:
        backend.kill_daemon()
        backend.slm("up")

    def ask_more_for_a_while() -> None:
        with Askers(backend, 6, 64) as burst:
            burst.wait_for(30)
        assert burst.failures == []

    disturbances = (replace_engines, replace_the_gateway, crash_an_engine, kill_the_daemon, ask_more_for_a_while)
    with Askers(backend, 3, 16) as askers:
        for disturb in itertools.cycle(disturbances):
            disturb()
            askers.wait_for(between)
            assert askers.failures == []
            if askers.answers >= wanted:
                break
    assert askers.failures == []
