"""The load: InferenceServices made straight against the API server, and when each becomes Ready."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import quantiles
from typing import Any

from kubernetes.aio import client, config, watch

from slm_operator.adapters.kube_client import Always, KubeClient
from tests.bench.harness import Figures
from tests.support.kube import count_nothing
from tests.support.planning import MODEL, QUANT, World, manifest, succeed
from tests.support.step_kubelet import StepKubelet

GROUP, VERSION, SERVICES = "slm.dev", "v1alpha1", "inferenceservices"
VARIANT = "Q4_0"
WRITERS = 16
"""Creations under way at once."""
MERGE = "application/merge-patch+json"


@asynccontextmanager
async def open_objects(kubeconfig: Path) -> AsyncIterator[client.CustomObjectsApi]:
    """A client of our resources."""
    settings = client.Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
    async with client.ApiClient(settings) as api:
        yield client.CustomObjectsApi(api)


def settled_quant_job() -> tuple[dict[str, Any], ...]:
    """A model and a QuantJob of it with the statuses our planners give them once their Jobs succeeded."""
    world = World()
    keys = [world.put(MODEL), world.put(QUANT)]
    world.settle(succeed)
    return tuple(world.objects[key] for key in keys)


async def create_sources(objects: client.CustomObjectsApi, namespace: str) -> None:
    """What the services refer to."""
    for wanted in settled_quant_job():
        body = manifest(wanted["kind"], wanted["metadata"]["name"], wanted["spec"])
        await objects.create_namespaced_custom_object(GROUP, VERSION, namespace, _plural(wanted), body)


async def settle_sources(objects: client.CustomObjectsApi, namespace: str) -> None:
    """Give those that no operator looked at the status they would have: no step has to run for them."""
    for wanted in settled_quant_job():
        where = (GROUP, VERSION, namespace, _plural(wanted), wanted["metadata"]["name"])
        found: Any = await objects.get_namespaced_custom_object(*where)
        if found.get("status", {}).get("observedGeneration", 0) < 1:
            body = {"status": wanted["status"]}
            await objects.patch_namespaced_custom_object_status(*where, body, _content_type=MERGE)


def _plural(wanted: dict[str, Any]) -> str:
    return f"{wanted['kind'].lower()}s"


@asynccontextmanager
async def played_steps(objects: client.CustomObjectsApi) -> AsyncIterator[None]:
    """Pods of steps succeed, for an operator that looks after models and QuantJobs itself."""
    kubelet = StepKubelet(KubeClient(objects.api_client, Always(), count_nothing), longest_seconds=0)
    playing = asyncio.create_task(kubelet.run())
    try:
        yield
    finally:
        playing.cancel()
        await asyncio.wait([playing])


async def why_not_offered(objects: client.CustomObjectsApi, namespace: str) -> str:
    """What the QuantJob says while it is not Ready with the variant; empty once the variant may be served."""
    name = QUANT["metadata"]["name"]
    found: Any = await objects.get_namespaced_custom_object(GROUP, VERSION, namespace, "quantjobs", name)
    status = found.get("status", {})
    ready = next(item for item in status["conditions"] if item["type"] == "Ready")
    passed = any(each["type"] == VARIANT and each.get("gate") == "Passed" for each in status["variants"])
    return "" if ready["status"] == "True" and passed else f"{ready['reason']}: {ready['message']}"


class Load:
    """``count`` services in one namespace, and when each was made and Ready, seconds of time.monotonic."""

    def __init__(self, objects: client.CustomObjectsApi, namespace: str, count: int) -> None:
        self._objects = objects
        self._namespace = namespace
        self._names = [f"s{number}" for number in range(count)]
        self._made: dict[str, float] = {}
        self._ready: dict[str, float] = {}

    async def run(self, limit_seconds: float) -> Figures:
        """Make them and wait until all are Ready; raises TimeoutError."""
        following = asyncio.create_task(self._follow())
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit_seconds):
                await self._create()
                created = time.monotonic()
                await following
        except TimeoutError:
            raise TimeoutError(f"{len(self._ready)} of {len(self._names)} Ready in {limit_seconds} s") from None
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
        waits = [1000 * (self._ready[name] - self._made[name]) for name in self._names]
        cuts = quantiles(waits, n=100, method="inclusive")
        return {
            "wallSeconds": max(self._ready.values()) - began,
            "createSeconds": created - began,
            "readyMsP50": cuts[49],
            "readyMsP99": cuts[98],
        }

    async def _create(self) -> None:
        waiting = list(self._names)
        spec = {"quantJobRef": {"name": QUANT["metadata"]["name"], "variant": VARIANT}}

        async def write() -> None:
            while waiting:
                name = waiting.pop()
                self._made[name] = time.monotonic()
                await self._objects.create_namespaced_custom_object(
                    GROUP, VERSION, self._namespace, SERVICES, manifest("InferenceService", name, spec)
                )

        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(write())

    async def _follow(self) -> None:
        """Note when each is first Ready, until all are."""
        stream = watch.Watch().stream(  # type: ignore[no-untyped-call]
            self._objects.list_namespaced_custom_object, GROUP, VERSION, self._namespace, SERVICES
        )
        async for event in stream:
            found = event["object"]
            conditions = found.get("status", {}).get("conditions", [])
            if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
                self._ready.setdefault(found["metadata"]["name"], time.monotonic())
            if len(self._ready) == len(self._names):
                return
