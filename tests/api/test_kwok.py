"""Simulated nodes: pods that become Ready in seconds without running, and Jobs that end."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import kwok
from dev.cluster.cluster import Cluster


@pytest.fixture(scope="module")
def simulated(own_control_plane: Cluster) -> Cluster:
    assert kwok.start(own_control_plane, pods=201, complete_jobs=True) == 2
    return own_control_plane


@pytest.fixture(scope="module")
def claimed(simulated: Cluster, namespace: str) -> dict[str, Any]:
    """A pod's specification that mounts a claimed volume."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}},
    }
    simulated.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(claim))
    container = {"name": "a", "image": "none", "volumeMounts": [{"name": "store", "mountPath": "/store"}]}
    volume = {"name": "store", "persistentVolumeClaim": {"claimName": "store"}}
    return {"containers": [container], "volumes": [volume]}


def test_a_deployment_is_available_in_seconds(simulated: Cluster, namespace: str, claimed: dict[str, Any]) -> None:
    labels = {"app": "a"}
    spec = {
        "replicas": 5,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": claimed},
    }
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}
    simulated.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(document))
    simulated.kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/a", "--timeout=60s")
    pods = json.loads(simulated.kubectl("get", "pods", "-n", namespace, "-l", "app=a", "-o", "json"))["items"]
    assert [bool(pod["status"]["podIP"]) for pod in pods] == [True] * 5
    assert {pod["spec"]["nodeName"] for pod in pods} == {"simulated-0", "simulated-1"}


def test_nodes_keep_a_lease_so_that_they_stay_ready(simulated: Cluster) -> None:
    seen = set()
    for _ in range(120):  # Renewed every ten seconds.
        seen.add(renewal(simulated))
        if len(seen - {""}) > 1:
            return
        time.sleep(0.5)
    raise AssertionError(f"after 50 s without a renewal the node counts as lost, and its pods as not ready: {seen}")


def renewal(cluster: Cluster) -> str:
    """When the first node's Lease was renewed; empty while there is none."""
    wanted = ("get", "lease", "-n", "kube-node-lease", "simulated-0", "--ignore-not-found")
    return cluster.kubectl(*wanted, "-o", "jsonpath={.spec.renewTime}")


def test_jobs_complete_when_asked_for(simulated: Cluster, namespace: str, claimed: dict[str, Any]) -> None:
    template = {"spec": {**claimed, "restartPolicy": "Never"}}
    document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}}
    simulated.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(document))
    simulated.kubectl("wait", "-n", namespace, "--for=condition=Complete", "job/j", "--timeout=60s")


def test_nodes_that_are_not_its_own_are_left_alone(simulated: Cluster) -> None:
    stranger = kwok.build_node(0)
    stranger["metadata"] = {"name": "stranger", "annotations": {}}
    simulated.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(stranger))
    time.sleep(2)
    conditions = "jsonpath={.status.conditions[?(@.reason=='KubeletReady')].type}"
    assert simulated.kubectl("get", "node", "simulated-0", "-o", conditions) == "Ready"
    assert simulated.kubectl("get", "node", "stranger", "-o", conditions) == ""


def test_jobs_go_on_unless_asked_for() -> None:
    assert "pod-complete" not in kwok.build_configuration(complete_jobs=False)
    assert "pod-complete" in kwok.build_configuration(complete_jobs=True)


def test_it_ends_with_its_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", with_node=False)
    cluster.folder.mkdir()
    cluster.processes.start("kwok", ["sleep", "600"])
    assert "kwok" in cluster.processes.running()
    cluster.down()
    assert cluster.processes.running() == {}
