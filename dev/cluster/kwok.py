"""Simulated nodes for tests of scale: kwok answers for their kubelets, so that pods become Ready and nothing runs.

kwok looks after its own nodes only, which carry its annotation; a real node in the same cluster is left alone. It is
a process of the cluster and ends with it.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dev.cluster import build
from dev.cluster.cluster import Cluster

STAGES = Path(__file__).with_suffix(".yaml")
JOBS_MARK = "--- # JOBS"
ANNOTATION = {"kwok.x-k8s.io/node": "fake"}
SELECTOR = ",".join(f"{key}={value}" for key, value in ANNOTATION.items())
PODS_PER_NODE = 200
"""The controller manager gives each node 254 addresses for pods."""
NODE_MEMORY, NODE_CPUS = "4Ti", "1000"
CLAIMS = 8
"""Volumes there are to be claimed: a namespace with a store takes one."""
READY_SECONDS = 60


def provide_volumes(cluster: Cluster) -> None:
    """A default StorageClass with volumes to claim; part of ``start``, and of use before there are nodes."""
    items = [STORAGE_CLASS, *(build_volume(number) for number in range(CLAIMS))]
    _apply(cluster, items)


def start(
    cluster: Cluster, *, pods: int = 3000, complete_jobs: bool = False, others: Iterable[dict[str, Any]] = ()
) -> int:
    """Nodes and volumes for that many pods, Ready; returns the number of nodes. Raises BuildFailed, StartFailed.

    With ``complete_jobs`` the pods of Jobs succeed at once, without a termination message; else they go on for ever.
    ``others`` are manifests of nodes that offer something else, such as GPUs.
    """
    program = build.tool("kwok")
    configuration = cluster.folder / "kwok.yaml"
    configuration.write_text(build_configuration(complete_jobs=complete_jobs))
    command = [str(program), "--kubeconfig", str(cluster.kubeconfig), "--config", str(configuration)]
    command += ["--manage-nodes-with-annotation-selector", SELECTOR]
    nodes = [build_node(number) for number in range(math.ceil(pods / PODS_PER_NODE))]
    nodes += [{**node, "metadata": {**node["metadata"], "annotations": ANNOTATION}} for node in others]
    cluster.processes.start("kwok", command)
    provide_volumes(cluster)
    _apply(cluster, nodes)
    names = [f"node/{each['metadata']['name']}" for each in nodes]
    cluster.kubectl("wait", "--for=condition=Ready", *names, f"--timeout={READY_SECONDS}s")
    return len(nodes)


def _apply(cluster: Cluster, items: list[dict[str, Any]]) -> None:
    objects = {"apiVersion": "v1", "kind": "List", "items": items}
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(objects))


def build_configuration(*, complete_jobs: bool) -> str:
    """Kwok's configuration and stages."""
    always, jobs = STAGES.read_text(encoding="utf-8").split(JOBS_MARK)
    return f"{always}---{jobs}" if complete_jobs else always


def build_node(number: int) -> dict[str, Any]:
    """A node large enough that only its number of pods counts."""
    room = {"cpu": NODE_CPUS, "memory": NODE_MEMORY, "ephemeral-storage": NODE_MEMORY, "pods": str(PODS_PER_NODE)}
    name = f"simulated-{number}"
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": ANNOTATION, "labels": labels},
        "status": {"allocatable": room, "capacity": room},
    }


STORAGE_CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "simulated", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "kubernetes.io/no-provisioner",
}


def build_volume(number: int) -> dict[str, Any]:
    """A volume that any claim fits; no process ever opens it."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"simulated-{number}"},
        "spec": {
            "storageClassName": STORAGE_CLASS["metadata"]["name"],  # type: ignore[index]
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
            "hostPath": {"path": "/nonexistent"},
        },
    }
