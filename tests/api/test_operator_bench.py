"""The operator's benchmark, with a load too small to mean anything: that the baseline works and calls are counted."""

from pathlib import Path

import pytest

from dev.cluster.build import BuildFailed
from tests.bench import operator
from tests.bench.operator_subject import plain_kopf
from tests.support.clusters import skip_if_foreign


@pytest.fixture(scope="module")
def _own_only() -> None:
    skip_if_foreign()


@pytest.mark.usefixtures("_own_only")
@pytest.mark.timeout(1800)  # The first start on a machine builds Kubernetes and kwok.
def test_services_of_the_baseline_become_ready_and_its_calls_are_counted(tmp_path: Path) -> None:
    try:
        figures, calls = operator.measure(tmp_path / "run", plain_kopf(operator.NAMESPACE), 5)
    except BuildFailed as problem:
        pytest.skip(str(problem))
    assert "create deployments 5" in calls
    assert "create services 5" in calls
    assert 5 <= figures["apiCallsPerObject"] <= 8
    assert 0 < figures["readyMsP50"] <= figures["readyMsP99"] <= 1000 * figures["wallSeconds"]
    assert figures["peakMemoryMiB"] > 20
