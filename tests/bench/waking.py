"""The first request to a service at zero, on the local backend with a real engine: where its time goes."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.core.plan import ObjectKey
from slm_operator.core.pods import is_ready
from slm_operator.local.gateway_keeper import gateway_url
from slm_operator.local.paths import LocalPaths
from tests.bench.harness import Figures
from tests.support.backend import Backend, local_backend, until
from tests.support.models import write_model

LOOK_SECONDS = 0.002
LIMIT_SECONDS = 60.0
PARTS = {
    "decideMs": "from the request to the Deployment that asks for an engine: gateway, operator",
    "startMs": "from there to a process that has a port",
    "loadMs": "from there to an engine that says it is healthy: the weights are loaded",
    "noticeMs": "from there to a pod that is Ready: the next probe",
    "answerMs": "from there to the first token at the client: the request is let in, its prompt computed",
}
"""One after the other they are the whole."""


def measure_waking(folder: Path, rounds: int, model: dict[str, Any]) -> Figures:
    """Median of each part, ms, with the slowest decision; ``model`` is arguments of ``write_model``."""
    write_model(folder / "model", **model)
    with local_backend(folder, gateway=True) as backend:
        _apply(backend)
        found = [asyncio.run(_wake(backend)) for _ in range(rounds)]
    figures = {name: median(each[name] for each in found) for name in found[0]}
    figures["slowestDecideMs"] = max(each["decideMs"] for each in found)
    return {name: round(value, 1) for name, value in figures.items()}


def _apply(backend: Backend) -> None:
    common = {"apiVersion": "slm.dev/v1alpha1"}
    spec = {"modelRef": {"name": "waking"}, "autoscaling": {"zeroAfterSeconds": 0}}
    source = {"source": {"path": str(backend.folder / "model")}}
    backend.apply(
        common | {"kind": "SLMModel", "metadata": {"name": "waking"}, "spec": source},
        common | {"kind": "InferenceService", "metadata": {"name": "waking"}, "spec": spec},
    )
    backend.wait_ready("slmsvc", "waking")


async def _wake(backend: Backend) -> Figures:
    """One wake-up from zero, seen from outside."""
    until(
        lambda: not backend.get("slmsvc", "waking")["status"].get("replicas"), "it does not go to zero", LIMIT_SECONDS
    )
    cluster = SqliteCluster(LocalPaths(backend.folder / "state", backend.folder / "data", backend.folder).database)
    try:
        async with aiohttp.ClientSession() as session:
            url = f"{gateway_url(backend.gateway())}/v1/chat/completions"
            began = time.monotonic()
            first = asyncio.create_task(_first_token(session, url))
            seen = [await _when(look) for look in _looks(cluster, session)]
            seen.append(await first)
    finally:
        cluster.close()
    times = [began, *seen]
    parts = {name: (end - start) * 1000 for name, (start, end) in zip(PARTS, pairwise(times), strict=True)}
    return {**parts, "firstTokenMs": (times[-1] - began) * 1000}


def _looks(cluster: SqliteCluster, session: aiohttp.ClientSession) -> list[Callable[[], Awaitable[bool]]]:
    """What is waited for, in the order in which it happens."""

    async def engine() -> dict[str, Any]:
        pods = await cluster.list("Pod", "default", {"slm.dev/step": "serve"})
        return dict(pods[0]) if pods else {}

    async def is_asked_for() -> bool:
        deployment = await cluster.get(ObjectKey("Deployment", "default", "waking"))
        return bool(deployment and deployment["spec"]["replicas"])

    async def runs() -> bool:
        return bool((await engine()).get("status", {}).get("port"))

    async def is_healthy() -> bool:
        port = (await engine()).get("status", {}).get("port")
        try:
            async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def is_told_ready() -> bool:
        return is_ready(await engine())

    return [is_asked_for, runs, is_healthy, is_told_ready]


async def _when(look: Callable[[], Awaitable[bool]]) -> float:
    """The time at which it is first seen."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await look():
            await asyncio.sleep(LOOK_SECONDS)
    return time.monotonic()


async def _first_token(session: aiohttp.ClientSession, url: str) -> float:
    body = {"model": "waking", "stream": True, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello?"}]}
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"data: ") and json.loads(line.removeprefix(b"data: "))["choices"]:
                found = time.monotonic()
                await answer.read()
                return found
    raise RuntimeError("the stream ended without a token")
