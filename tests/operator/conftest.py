"""A real API server for the tests of what is asked of one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.build import BuildFailed
from dev.cluster.cluster import Cluster, cluster_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd, API server, controllers and scheduler, with the CRDs installed."""
    try:
        with cluster_in(tmp_path_factory.mktemp("control-plane"), with_node=False) as cluster:
            cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
            cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            yield cluster
    except BuildFailed as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(problem))
