"""Faults of the control plane itself: what was stored outlives the processes."""

import json
import time

import pytest

from dev.cluster.cluster import Cluster

JOB = {"apiVersion": "slm.dev/v1alpha1", "kind": "QuantJob", "metadata": {"name": "kept"}}
SPEC = {"modelRef": {"name": "m"}, "variants": ["Q4_0"]}


@pytest.mark.parametrize("kill", [False, True], ids=["terminated", "killed"])
@pytest.mark.parametrize("name", ["etcd", "kube-apiserver"])
def test_objects_outlive_a_component(own_control_plane: Cluster, namespace: str, name: str, *, kill: bool) -> None:
    cluster, before = own_control_plane, own_control_plane.processes.running()
    cluster.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", stdin=json.dumps({**JOB, "spec": SPEC}))
    uid = cluster.kubectl("get", "quantjob", "kept", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    cluster.stop_component(name, kill=kill)
    assert name not in cluster.processes.running()
    deadline = time.monotonic() + 30
    while cluster.is_ready():  # It asks etcd once a second, and says in between what it heard last.
        assert time.monotonic() < deadline, f"the API server is ready without {name}"
        time.sleep(0.2)
    cluster.start_component(name)
    assert cluster.is_ready()
    after = cluster.processes.running()
    assert {key for key in before if before[key] != after[key]} == {name}
    assert cluster.kubectl("get", "quantjob", "kept", "-n", namespace, "-o", "jsonpath={.metadata.uid}") == uid


def test_controllers_work_again_after_the_api_server_was_restarted(own_control_plane: Cluster, namespace: str) -> None:
    own_control_plane.restart_component("kube-apiserver", kill=True)
    job = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}}
    document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": job}
    own_control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(document))
    own_control_plane.kubectl("wait", "-n", namespace, "--for=jsonpath={.status.active}=1", "job/j", "--timeout=60s")
