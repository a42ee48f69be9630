"""When nothing changes, the operator writes nothing but its Lease, and costs next to nothing."""

import asyncio
import os
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from dev.cluster.build import BuildFailed
from tests.bench import operator
from tests.bench.operator_subject import Running, Subject, slm_operator
from tests.support.api_calls import READS, WRITES
from tests.support.api_proxy import ApiProxy
from tests.support.backend import write_figures
from tests.support.clusters import skip_if_foreign

SOAK = bool(os.environ.get("SLM_SOAK"))
SERVICES = 1000 if SOAK else 100
WATCHED_SECONDS = 600.0 if SOAK else 25.0
VISIT_SECONDS = 10.0
"""Between two visits of kubelet's probes and of Prometheus, which an operator at rest has to answer too."""
MOST_CPU_PERCENT, MOST_MEMORY_MIB = 1.0, 150.0
OWN_LEASE = "update leases"


@pytest.fixture(scope="module")
def _own_only() -> None:
    skip_if_foreign()


@pytest.mark.soak
@pytest.mark.usefixtures("_own_only")
@pytest.mark.timeout(3600)  # The first start on a machine builds Kubernetes and kwok.
def test_at_rest_the_operator_writes_nothing_but_its_lease(tmp_path: Path) -> None:
    subject = slm_operator(operator.NAMESPACE)
    try:
        with operator.scene(tmp_path / "scene", subject, SERVICES) as (proxy, process):
            loaded, _ = asyncio.run(operator.load(proxy, process, SERVICES))
            calls, figures = rest(subject, proxy, process)
    except BuildFailed as problem:
        pytest.skip(str(problem))
    write_figures(f"steady-state-{SERVICES}", {"untilReady": loaded, "atRest": figures})
    written = Counter({name: number for name, number in calls.items() if name.split()[0] in WRITES})
    assert written.pop(OWN_LEASE, 0) > 0, "it does not even hold its Lease: it did not work at all"
    assert written == {}, f"nothing had changed: {written}"
    if SOAK:
        assert figures["cpuPercent"] < MOST_CPU_PERCENT, figures
        assert figures["memoryMiB"] < MOST_MEMORY_MIB, figures


def rest(subject: Subject, proxy: ApiProxy, process: Running) -> tuple[Counter[str], dict[str, float]]:
    """Let it be, but for the visits; the calls it made, and what it used."""
    proxy.reset()
    process.begin()
    began = time.monotonic()
    while (left := began + WATCHED_SECONDS - time.monotonic()) > 0:
        time.sleep(min(left, VISIT_SECONDS))
        for path in ("healthz", "readyz", "metrics"):
            visit(subject, path)
    seconds, used, calls = time.monotonic() - began, process.figures(), proxy.count(WRITES | READS)
    return calls, {
        "services": SERVICES,
        "watchedSeconds": round(seconds, 1),
        "cpuPercent": round(100 * used["cpuSeconds"] / seconds, 3),
        "memoryMiB": round(used["memoryMiB"], 1),
        "peakMemoryMiB": round(used["peakMemoryMiB"], 1),
        "leaseRenewals": calls[OWN_LEASE],
        "otherWrites": sum(n for name, n in calls.items() if name.split()[0] in WRITES and name != OWN_LEASE),
        "reads": sum(number for name, number in calls.items() if name.split()[0] in READS),
    }


def visit(subject: Subject, path: str) -> None:
    """GET a path of the operator's port; raises HTTPError unless all is well."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{subject.environment['SLM_LISTEN_PORT']}/{path}", timeout=30
    ) as told:
        told.read()
