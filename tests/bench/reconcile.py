"""A steady state: one pass over many Ready services beside a reconciler that writes its children every time."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.core.placement import CPU, LLAMA_CPP, Placement, Program
from slm_operator.factory import SystemClock
from slm_operator.ports import EventRecord, Manifest, ObjectKey
from slm_operator.reconcile.reconciler import Reconciler
from tests.bench.harness import Figures, Goal, Report, take_turns
from tests.support.planning import MODEL, manifest, succeed

PLACEMENT = Placement(
    store="/store", pipeline_command=("steps",), engines={(LLAMA_CPP, CPU): Program(("engine",))}, machine_cpus=2
)


class Counting:
    """A cluster that counts writes; ``eager`` forgets what is applied, so that everything is written again."""

    def __init__(self, inner: SqliteCluster, *, eager: bool) -> None:
        self._inner = inner
        self._eager = eager
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object; the eager reconciler sees no children."""
        hidden = self._eager and key.kind in {"Deployment", "Service"}
        return None if hidden else await self._inner.get(key)

    async def apply(self, wanted: Manifest) -> Any:
        """Counted."""
        self.writes += 1
        return await self._inner.apply(wanted)

    async def update_status(self, key: ObjectKey, status: Manifest, uid: str = "") -> Any:
        """Counted when the status differs, or always."""
        current = await self._inner.get(key)
        self.writes += self._eager or (current or {}).get("status") != status
        return await self._inner.update_status(key, status, uid)

    async def record(self, event: EventRecord) -> Any:
        """Counted."""
        self.writes += 1
        return await self._inner.record(event)


def run(folder: Path, services: int = 300) -> Report:
    """``services`` InferenceServices of one model, converted and applied."""
    cluster = SqliteCluster(folder / "objects.sqlite")
    keys = asyncio.run(prepare(cluster, services))
    figures = take_turns(
        {
            "slm reconcile": _subject(cluster, keys, eager=False),
            "writes every time": _subject(cluster, keys, eager=True),
        },
        3,
    )
    cluster.close()
    ours, naive = figures["slm reconcile"], figures["writes every time"]
    ratios = {
        "writesPerObject": round(ours["writes"] / services, 4),
        "wallSeconds": round(ours["wallSeconds"] / naive["wallSeconds"], 3),
    }
    report = Report("reconcile", f"one pass over {services} settled InferenceServices in SQLite", figures, ratios)
    report.goals = {"writesPerObject": Goal("max", 0.0), "wallSeconds": Goal("max", 1.0)}
    return report


async def prepare(cluster: SqliteCluster, services: int) -> list[ObjectKey]:
    """Settle a model and its services, with Jobs answered as the planners' tests answer them."""
    reconciler = Reconciler(cluster, SystemClock(), PLACEMENT)
    await cluster.apply(MODEL)
    keys = [ObjectKey("SLMModel", "default", "m")]
    for number in range(services):
        await cluster.apply(manifest("InferenceService", f"s{number}", {"modelRef": {"name": "m"}}))
        keys.append(ObjectKey("InferenceService", "default", f"s{number}"))
    for _ in range(6):
        for key in keys:
            await reconciler.reconcile(key)
        await _finish_jobs(cluster)
    return keys


async def _finish_jobs(cluster: SqliteCluster) -> None:
    for job in await cluster.list("Job"):
        if job.get("status"):
            continue
        meta = job["metadata"]
        labels = {**meta["labels"], "job-name": meta["name"]}
        message = succeed(meta["labels"]["slm.dev/step"]).model_dump_json(by_alias=True, exclude_none=True)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{meta['name']}-0", "labels": labels},
            "spec": {},
        }
        await cluster.apply(pod)
        ended = {"containerStatuses": [{"state": {"terminated": {"message": message}}}]}
        await cluster.update_status(ObjectKey("Pod", "default", f"{meta['name']}-0"), ended)
        done = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}]}
        await cluster.update_status(ObjectKey("Job", "default", meta["name"]), done)


def _subject(cluster: SqliteCluster, keys: list[ObjectKey], *, eager: bool) -> Callable[[], Figures]:
    def measure() -> Figures:
        counting = Counting(cluster, eager=eager)
        reconciler = Reconciler(counting, SystemClock(), PLACEMENT)

        async def one_pass() -> None:
            for key in keys:
                await reconciler.reconcile(key)

        began, used = time.monotonic(), time.process_time()
        asyncio.run(one_pass())
        return {
            "wallSeconds": time.monotonic() - began,
            "cpuSeconds": time.process_time() - used,
            "writes": counting.writes,
        }

    return measure
