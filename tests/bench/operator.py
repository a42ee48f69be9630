"""Many services at once: our operator beside plain kopf handlers, on a real API server with simulated nodes.

Each measurement has a control plane of its own, so that nothing of another is left over. The operator talks through a
proxy that counts its calls; the load does not. Pods become Ready by kwok, so wall time holds the work of Kubernetes'
own controllers too, which is the same for every subject.

    python -m tests.bench.operator --sizes 100 --subject "plain kopf handlers"
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.cluster import kwok
from dev.cluster.cluster import cluster_in
from tests.bench.growth import draw_growth
from tests.bench.harness import ROOT, Figures, Goal, Report
from tests.bench.operator_load import Load, create_sources, open_objects, played_steps, settle_sources, why_not_offered
from tests.bench.operator_subject import SUBJECTS, Running, Subject, running
from tests.support.api_calls import READS, WRITES
from tests.support.api_proxy import ApiProxy
from tests.support.clusters import install_crds

SIZES = (100, 1000, 3000)
NOISE = 1.1
"""Nearly all of the wall time is that of Kubernetes' own controllers and of kwok: equal is what can be reached."""
MAIN_SIZE = 1000
"""The number of objects that ratios and goals are about."""
NAMESPACE = "bench"
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"namespace": NAMESPACE, "name": "slm-store"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}},
}
"""The store, brought along for every subject: the pods of each mount it."""
LIMIT_SECONDS = 1800.0
"""Three thousand services on two CPUs, where Kubernetes' own controllers make about five a second."""
START_SECONDS, PREPARE_SECONDS = 60.0, 180.0
QUIET_SECONDS = 3.0
"""So long without a call means that the operator has nothing left to do."""
APART = frozenset({"leases"})
"""Called by the clock, not for an object."""


def run(folder: Path, sizes: Sequence[int] = SIZES, subjects: Sequence[Callable[[str], Subject]] = SUBJECTS) -> Report:
    """Every subject with every number of services."""
    report = Report("operator", "InferenceServices from nothing to all Ready: Deployment, Service, status")
    growth: dict[str, dict[int, Figures]] = {}
    for size in sizes:
        for make in subjects:
            subject = make(NAMESPACE)
            figures, calls = measure(folder / f"{subject.name.split()[0]}-{size}", subject, size)
            growth.setdefault(subject.name, {})[size] = figures
            report.figures[f"{subject.name}, {size} objects"] = figures
            report.notes.append(f"{subject.name}, {size} objects: {calls}")
    size = MAIN_SIZE if MAIN_SIZE in sizes else sizes[-1]
    ours, *peers = (found[size] for found in growth.values())
    report.ratios = {"apiCallsPerObject": ours["apiCallsPerObject"]}
    report.goals = {"apiCallsPerObject": Goal("max", 4.0)}
    for peer in peers:
        for name in ("wallSeconds", "cpuMsPerObject", "peakMemoryMiB"):
            report.ratios[name] = round(ours[name] / peer[name], 3)
            report.goals[name] = Goal("max", NOISE if name == "wallSeconds" else 1.0)
    report.notes.append(f"ratios: at {size} objects, ours over the baseline's; apiCallsPerObject is ours alone")
    if len(sizes) > 1:
        draw_growth(ROOT / "build" / "bench" / "operator.png", growth)
    return report


def measure(folder: Path, subject: Subject, size: int) -> tuple[Figures, str]:
    """Figures of one subject with ``size`` services, and its calls by verb and resource in words."""
    with scene(folder, subject, size) as (proxy, process):
        return asyncio.run(load(proxy, process, size))


@contextmanager
def scene(folder: Path, subject: Subject, size: int) -> Iterator[tuple[ApiProxy, Running]]:
    """The operator at rest behind a proxy, nodes for ``size`` pods, and a QuantJob to serve."""
    folder.mkdir(parents=True)
    with cluster_in(folder / "cluster", with_node=False) as cluster:
        install_crds(cluster)
        cluster.kubectl("create", "namespace", NAMESPACE)
        kwok.provide_volumes(cluster)
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(CLAIM))
        with (
            ApiProxy(cluster.kubeconfig, folder) as proxy,
            running(subject, proxy.kubeconfig, folder) as process,
        ):
            wait_until(lambda: proxy.watching()["inferenceservices"] > 0, START_SECONDS, process)
            asyncio.run(_prepare(cluster.kubeconfig, proxy, process))
            kwok.start(cluster, pods=size + kwok.PODS_PER_NODE)
            wait_until_quiet(proxy, process)
            yield proxy, process


async def _prepare(kubeconfig: Path, proxy: ApiProxy, process: Running) -> None:
    """A QuantJob that offers its variant, whatever the operator does with it; no node is there yet."""
    async with open_objects(kubeconfig) as objects, played_steps(objects):
        await create_sources(objects, NAMESPACE)
        await asyncio.to_thread(wait_until_quiet, proxy, process)
        await settle_sources(objects, NAMESPACE)
        deadline = time.monotonic() + PREPARE_SECONDS
        while missing := await why_not_offered(objects, NAMESPACE):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{missing} after {PREPARE_SECONDS} s\n{process.log()}")
            await asyncio.to_thread(wait_until_quiet, proxy, process)


async def load(proxy: ApiProxy, process: Running, size: int) -> tuple[Figures, str]:
    """Make the services straight on the API server, and measure the operator until all are Ready and it is quiet."""
    async with open_objects(proxy.upstream) as objects:
        proxy.reset()
        process.begin()
        figures = await Load(objects, NAMESPACE, size).run(LIMIT_SECONDS)
    await asyncio.to_thread(wait_until_quiet, proxy, process)
    used = process.figures()
    counted = {name: number for name, number in proxy.count(READS | WRITES).items() if name.split()[1] not in APART}
    figures |= {
        "apiCallsPerObject": sum(counted.values()) / size,
        "apiWritesPerObject": sum(n for name, n in counted.items() if name.split()[0] in WRITES) / size,
        "cpuMsPerObject": 1000 * used["cpuSeconds"] / size,
        "memoryMiB": used["memoryMiB"],
        "peakMemoryMiB": used["peakMemoryMiB"],
    }
    calls = ", ".join(f"{name} {number}" for name, number in sorted(counted.items(), key=lambda each: -each[1]))
    return {name: round(value, 3) for name, value in figures.items()}, calls


def wait_until_quiet(proxy: ApiProxy, process: Running, limit_seconds: float = START_SECONDS) -> None:
    """Until the operator made no call for a while, but for its Lease; raises TimeoutError."""

    def is_quiet() -> bool:
        times = [each.at for each in proxy.records() if each.call.resource not in APART]
        return not times or time.monotonic() - times[-1] > QUIET_SECONDS

    wait_until(is_quiet, limit_seconds, process)


def wait_until(ready: Callable[[], bool], limit_seconds: float, process: Running) -> None:
    """Poll; raises TimeoutError, or RuntimeError when the operator ends meanwhile."""
    deadline = time.monotonic() + limit_seconds
    while not ready():
        process.figures()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the operator was not there, or not quiet, in {limit_seconds} s\n{process.log()}")
        time.sleep(0.1)


def main() -> int:
    """Part of the benchmark, its JSON on standard output; nothing is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.operator", description="Measure operators.")
    names = {make(NAMESPACE).name: make for make in SUBJECTS}
    parser.add_argument("--sizes", type=int, nargs="+", default=[100], help="numbers of services; default: 100")
    parser.add_argument("--subject", choices=names, nargs="+", default=list(names), help="default: all")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-operator-") as folder:
        report = run(Path(folder), chosen.sizes, [names[name] for name in chosen.subject])
    sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
