"""Helm and a real API server that knows none of our kinds yet."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from dev import rendering
from dev.cluster.build import BuildFailed, kubernetes, tool
from dev.cluster.cluster import Cluster, cluster_in
from dev.cluster.versions import chosen_version
from tests.chart.installing import Site

BUILD_SECONDS = 1800
"""Helm and Kubernetes are built within the first test that needs them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test here time for builds; the hook is handed every item of the session."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


def skip_or_raise(problem: BuildFailed) -> NoReturn:
    """A developer's machine may lack Go; continuous integration may not."""
    if os.environ.get("CI"):
        raise problem
    pytest.skip(str(problem))


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """Helm and kubectl, built before the first test's time runs."""
    try:
        tool("helm")
        kubernetes(chosen_version())
    except BuildFailed as problem:
        skip_or_raise(problem)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd, API server, controllers and scheduler; no node, so that pods are admitted but never run."""
    try:
        with cluster_in(tmp_path_factory.mktemp("plane"), with_node=False) as cluster:
            yield cluster
    except BuildFailed as problem:
        skip_or_raise(problem)


@pytest.fixture(scope="module")
def site(plane: Cluster) -> Site:
    """The namespace of the operator, which enforces the strictest Pod Security Standard."""
    site = Site(plane, rendering.NAMESPACE)
    site.make_namespace(rendering.NAMESPACE)
    return site


@pytest.fixture(scope="session")
def helm_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("helm")


@pytest.fixture(scope="session", autouse=True)
def own_helm_home(helm_home: Path) -> Iterator[None]:
    """Helm keeps nothing in the home of whoever runs the tests."""
    patch = pytest.MonkeyPatch()
    for name in ("CACHE", "CONFIG", "DATA"):
        patch.setenv(f"HELM_{name}_HOME", str(helm_home / name.lower()))
    yield
    patch.undo()
