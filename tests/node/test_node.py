"""The development cluster itself: what the tests of the operator on a real node will stand on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import node
from dev.cluster.cluster import Cluster
from tests.support.clusters import own_node_cluster, skip_if_foreign

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "writer"},
    "spec": {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [
            {
                "name": "main",
                "image": "slm.local/busybox:1",
                "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", "echo kept >/data/file && nslookup kubernetes.default.svc.cluster.local"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
}
RESTRICTED = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(folder: Path, worker_name: str) -> Iterator[Cluster]:
    """A whole cluster with one node, of this file alone: its end is tested here."""
    skip_if_foreign()
    with own_node_cluster(folder / "state", f"n{worker_name}") as cluster:
        yield cluster


def traces(cluster: Cluster) -> list[str]:
    """What of a cluster is still on the machine."""
    own = cluster.node
    networks = [path.name for path in Path("/run/netns").glob("*") if path.name == own.namespace]
    groups = [str(path) for path in (each / own.namespace for each in node.controllers()) if path.exists()]
    mounts = [
        str(path) for path in node.mounts() if path.is_relative_to(cluster.folder) or path.is_relative_to(own.run)
    ]
    return [*networks, *groups, *mounts, *(str(path) for path in (cluster.folder, own.run) if path.exists())]


@pytest.mark.timeout(1800)  # The first start on a machine builds the addons.
def test_a_restricted_pod_finds_a_volume_and_a_name_server(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(RESTRICTED))
    for manifest in (CLAIM, POD):
        cluster.kubectl("apply", "-n", "restricted", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl(
        "wait", "-n", "restricted", "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=90s"
    )
    assert "10.96.0.1" in cluster.kubectl("logs", "-n", "restricted", "writer")
    kept = [path.read_text() for path in (cluster.folder / "volumes").rglob("file")]
    assert kept == ["kept\n"]


def test_metrics_are_served(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=90s")


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    before = cluster.processes.running()
    cluster.up()
    assert cluster.processes.running() == before
    assert len(before) == 7


def test_down_leaves_nothing_behind(cluster: Cluster) -> None:
    assert traces(cluster)
    cluster.down()
    assert traces(cluster) == []
    assert cluster.processes.running() == {}
