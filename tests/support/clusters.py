"""Fixtures for every suite that asks a Kubernetes: one of our own, or the one that KUBECONFIG names.

| fixture | is | scope, and why |
|---|---|---|
| `control_plane` | any API server with our CRDs | module: 4 s to start, and not to idle beside other files' tests |
| `own_control_plane` | the same, but ours to break | module; skipped where KUBECONFIG is set |
| `node_cluster` | any cluster that runs pods | session: 30 s to start, once per xdist worker |
| `new_namespace`, `new_node_namespace` | makes a namespace of its own in either | as the cluster |

A foreign cluster is touched in namespaces of our own only: the CRDs must be there already.
"""

import json
import os
import subprocess
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from dev.cluster import node
from dev.cluster.access import Access, foreign_access
from dev.cluster.build import BuildFailed
from dev.cluster.cluster import Cluster, cluster_in

ROOT = Path(__file__).resolve().parents[2]
CRDS = tuple(sorted((ROOT / "crds").glob("*.yaml")))
FOREIGN = os.environ.get("KUBECONFIG", "")
"""The cluster to use instead of our own. Read once: tests set KUBECONFIG for what they start."""
NAMESPACE_PREFIX = "slm-test-"


class MakeNamespace(Protocol):
    """Answers the name of a namespace that exists, and is deleted afterwards."""

    def __call__(self, labels: Mapping[str, str] | None = None) -> str: ...


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """An API server with controllers and scheduler, with the CRDs installed; whether nodes are there is not said."""
    with _foreign() if FOREIGN else own_cluster(tmp_path_factory.mktemp("control-plane"), with_node=False) as access:
        yield access


@pytest.fixture(scope="module")
def own_control_plane(request: pytest.FixtureRequest) -> Cluster:
    """A control plane of our own, for tests that break it or need what belongs to the whole cluster."""
    skip_if_foreign()
    found: Cluster = request.getfixturevalue("control_plane")
    return found


@pytest.fixture(scope="session")
def node_cluster(tmp_path_factory: pytest.TempPathFactory, worker_name: str) -> Iterator[Access]:
    """A cluster that runs pods, with DNS and a default StorageClass, with the CRDs installed."""
    if FOREIGN:
        with _foreign() as access:
            yield access
        return
    with own_node_cluster(tmp_path_factory.mktemp("node") / "state", worker_name) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def worker_name() -> str:
    """Short name of this checkout and xdist worker: clusters with nodes need names of their own on one machine."""
    checkout = zlib.crc32(str(ROOT).encode()) % 0x1000
    return f"{checkout:03x}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')}"


@pytest.fixture(scope="module")
def new_namespace(control_plane: Access) -> Iterator[MakeNamespace]:
    """Makes namespaces on the control plane."""
    with namespaces_of(control_plane) as make:
        yield make


@pytest.fixture(scope="module")
def new_node_namespace(node_cluster: Access) -> Iterator[MakeNamespace]:
    """Makes namespaces on the cluster with a node."""
    with namespaces_of(node_cluster) as make:
        yield make


@pytest.fixture(scope="module")
def namespace(new_namespace: MakeNamespace) -> str:
    """One namespace for a whole file."""
    return new_namespace()


@contextmanager
def namespaces_of(access: Access) -> Iterator[MakeNamespace]:
    """Namespaces that nobody else has, deleted at the end without waiting for it."""
    made: list[str] = []

    def make(labels: Mapping[str, str] | None = None) -> str:
        name = f"{NAMESPACE_PREFIX}{uuid.uuid4().hex[:8]}"
        metadata = {"name": name, "labels": dict(labels or {})}
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        access.kubectl("create", "-f", "-", stdin=json.dumps(document))
        made.append(name)
        return name

    try:
        yield make
    finally:
        if made:
            access.kubectl("delete", "namespace", "--wait=false", "--ignore-not-found", *made)


def skip_if_foreign() -> None:
    """Skip what is only done to a cluster of our own."""
    if FOREIGN:
        pytest.skip("breaks, or changes as a whole, the cluster it runs on: not done to the one of KUBECONFIG")


@contextmanager
def _foreign() -> Iterator[Access]:
    try:
        with foreign_access(FOREIGN) as access:
            if problem := crd_problem(access):
                pytest.skip(problem)
            yield access
    except subprocess.CalledProcessError as error:
        pytest.fail(f"the cluster of KUBECONFIG cannot be used: {error.stderr or error}", pytrace=False)


@contextmanager
def own_cluster(folder: Path, *, with_node: bool, name: str = "test") -> Iterator[Cluster]:
    """A cluster of our own with the CRDs; where it cannot be built the test is skipped, but fails in CI."""
    try:
        with cluster_in(folder, with_node=with_node, name=name) as cluster:
            install_crds(cluster)
            yield cluster
    except BuildFailed as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(problem))


@contextmanager
def own_node_cluster(folder: Path, name: str) -> Iterator[Cluster]:
    """A cluster of our own with a node; for root only."""
    if os.getuid() != 0:
        pytest.skip("a node needs root; the control plane alone is tested in tests/api")
    node.install_packages()
    with own_cluster(folder, with_node=True, name=name) as cluster:
        yield cluster


def install_crds(access: Access) -> None:
    """Our three kinds, served when this returns."""
    access.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    access.kubectl("wait", "--for=condition=Established", "crd", *_crd_names(), "--timeout=60s")


def crd_problem(access: Access) -> str:
    """Why the cluster's CRDs are not those of this tree, with what to do; empty when they are."""
    for path in CRDS:
        wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = access.kubectl("get", "crd", wanted["metadata"]["name"], "-o", "json", "--ignore-not-found")
        served = _versions(json.loads(found)) if found else None
        if served != _versions(wanted):
            state = "has no CRD" if served is None else "has another version of"
            advice = "this suite installs none there: kubectl apply --server-side -f crds"
            return f"the cluster of KUBECONFIG {state} {wanted['metadata']['name']}, and {advice}"
    return ""


def _versions(crd: Mapping[str, Any]) -> dict[str, Any]:
    return {version["name"]: version["schema"] for version in crd["spec"]["versions"]}


def _crd_names() -> list[str]:
    return [yaml.safe_load(path.read_text(encoding="utf-8"))["metadata"]["name"] for path in CRDS]
