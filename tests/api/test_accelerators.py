"""Pods of engines on GPUs: the golden ones, given to a real API server and placed by its scheduler.

Nodes are simulated, with labels and resources as real ones publish them (tests/golden/cluster/input).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster import kwok
from dev.cluster.cluster import Cluster
from slm_operator.core.diff import first_difference, is_applied, manifest_difference

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cluster"
CASES = {
    "one-gpu": {"one-gpu-node"},
    # Four of the larger GPUs have the memory too.
    "four-gpus": {"four-gpus-node", "one-gpu-node"},
    "mig": {"mig-node"},
    "amd": {"amd-node"},
    # The driver publishes both GPUs of that node as whole ones, though one of them is cut.
    "dra": {"dra-node", "dra-mig-node"},
    "dra-mig": {"dra-mig-node"},
    "dra-partitions": {"partitions-node"},
}
"""Service of a golden pair to the nodes on which its engines may run."""
T4 = {"nvidia.com/gpu.memory": "15360", "nvidia.com/gpu.product": "Tesla-T4", "kubernetes.io/hostname": "t4"}
TOO_SMALL = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "t4", "labels": T4},
    "status": {"allocatable": {"cpu": "96", "memory": "1Ti", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}},
}
"""More GPUs than any pod needs, by a device plugin and by a DRA driver, and none of them large enough."""
SMALL_DEVICES = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceSlice",
    "metadata": {"name": "t4-gpu.nvidia.com"},
    "spec": {
        "driver": "gpu.nvidia.com",
        "nodeName": "t4",
        "pool": {"name": "t4", "generation": 1, "resourceSliceCount": 1},
        "devices": [
            {
                "name": f"gpu-{number}",
                "attributes": {"type": {"string": "gpu"}, "productName": {"string": "Tesla T4"}},
                # One whose memory nobody tells is no error.
                **({"capacity": {"memory": {"value": "15Gi"}}} if number else {}),
            }
            for number in range(8)
        ],
    },
}


def read_all(part: str, name: str, *kinds: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((GOLDEN / part / f"vllm-{name}.yaml").read_text())
    return [document for document in documents if document["kind"] in kinds]


def read(part: str, name: str, kind: str) -> dict[str, Any]:
    (document,) = read_all(part, name, kind)
    return document


def simulate(node: dict[str, Any]) -> dict[str, Any]:
    """The node for kwok, which sets its conditions itself."""
    room = {**node["status"]["allocatable"], "pods": "110"}
    return {**node, "status": {"allocatable": room, "capacity": room}}


@pytest.fixture(scope="module")
def cluster(own_control_plane: Cluster) -> Cluster:
    nodes = [TOO_SMALL, *(read("input", name, "Node") for name in CASES)]
    kwok.start(own_control_plane, pods=kwok.PODS_PER_NODE, others=map(simulate, nodes))
    devices = [each for name in CASES for each in read_all("input", name, "ResourceSlice", "DeviceClass")]
    items = {"apiVersion": "v1", "kind": "List", "items": [SMALL_DEVICES, *devices]}
    own_control_plane.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(items))
    return own_control_plane


@pytest.fixture(scope="module")
def place(cluster: Cluster, new_namespace: Any) -> str:
    """A namespace that only takes pods without rights, with a store."""
    name: str = new_namespace({"pod-security.kubernetes.io/enforce": "restricted"})
    apply(cluster, name, read("output", next(iter(CASES)), "PersistentVolumeClaim"))
    return name


def apply(cluster: Cluster, namespace: str, child: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply a child as the operator does, without an owner, which is not there; what was wanted, and what is there."""
    kept = {name: value for name, value in child["metadata"].items() if name != "ownerReferences"}
    wanted = {**child, "metadata": {**kept, "namespace": namespace}}
    command = ("apply", "--server-side", "--field-manager=slm-operator", "--validate=strict", "-o", "json", "-f", "-")
    return wanted, json.loads(cluster.kubectl(*command, stdin=json.dumps(wanted)))


@pytest.mark.parametrize("name", CASES)
def test_a_golden_engine_is_admitted_and_runs_on_the_node_whose_gpus_it_was_made_for(
    cluster: Cluster, place: str, name: str
) -> None:
    for template in read_all("output", name, "ResourceClaimTemplate"):
        wanted, found = apply(cluster, place, template)
        assert is_applied(wanted, found), manifest_difference(wanted, found)
    wanted, found = apply(cluster, place, read("output", name, "Deployment"))
    assert is_applied(wanted, found), manifest_difference(wanted, found)
    cluster.kubectl("wait", "-n", place, "--for=condition=Available", f"deployment/{name}", "--timeout=60s")
    (pod,) = json.loads(cluster.kubectl("get", "pods", "-n", place, "-l", f"slm.dev/name={name}", "-o", "json"))[
        "items"
    ]
    assert pod["spec"]["nodeName"] in CASES[name]
    (engine,) = pod["spec"]["containers"]
    asked = wanted["spec"]["template"]["spec"]["containers"][0]
    assert first_difference({"resources": asked["resources"]}, engine) is None


def test_one_more_than_there_are_waits_and_the_scheduler_says_for_what(cluster: Cluster, place: str) -> None:
    """The AMD node has eight GPUs and each engine takes two: of five engines one has to wait."""
    child = read("output", "amd", "Deployment")
    apply(cluster, place, {**child, "spec": {**child["spec"], "replicas": 5}})
    four = "--for=jsonpath={.status.readyReplicas}=4"
    cluster.kubectl("wait", "-n", place, four, "deployment/amd", "--timeout=60s")
    pods = json.loads(cluster.kubectl("get", "pods", "-n", place, "-l", "slm.dev/name=amd", "-o", "json"))["items"]
    (waiting,) = [pod for pod in pods if "nodeName" not in pod["spec"]]
    assert "Insufficient amd.com/gpu" in waiting["status"]["conditions"][0]["message"]


def given_devices(cluster: Cluster, place: str, service: str) -> list[set[str]]:
    """The devices of each engine of a service that has some, as pool and name."""
    found = cluster.kubectl("get", "resourceclaims", "-n", place, "-l", f"slm.dev/name={service}", "-o", "json")
    allocations = [each["status"].get("allocation") for each in json.loads(found)["items"] if "status" in each]
    results = [each["devices"]["results"] for each in allocations if each]
    return [{f"{each['pool']}/{each['device']}" for each in result} for result in results]


def test_an_engine_gets_a_partition_of_the_size_that_was_chosen(cluster: Cluster, place: str) -> None:
    (devices,) = given_devices(cluster, place, "dra-mig")
    assert devices <= {"dra-mig-node/gpu-0-mig-19-7-1", "dra-mig-node/gpu-0-mig-19-8-1"}
    assert len(devices) == 1


def test_partitions_that_are_made_on_demand_are_claimed_until_their_gpu_is_used_up(
    cluster: Cluster, place: str
) -> None:
    """Two of 40 GB take all of the GPU: there is no room for a third, nor for one of those of 20 GB that are left."""
    child = read("output", "dra-partitions", "Deployment")
    apply(cluster, place, {**child, "spec": {**child["spec"], "replicas": 3}})
    two = "--for=jsonpath={.status.readyReplicas}=2"
    cluster.kubectl("wait", "-n", place, two, "deployment/dra-partitions", "--timeout=60s")
    assert sorted(map(sorted, given_devices(cluster, place, "dra-partitions"))) == [
        ["partitions-node/gpu-0-mig-3g-40gb-0"],
        ["partitions-node/gpu-0-mig-3g-40gb-1"],
    ]


def test_each_engine_claims_gpus_of_its_own_and_one_more_than_there_are_waits(cluster: Cluster, place: str) -> None:
    """Each takes two GPUs of 80 GiB, of which two nodes have two; a third has eight of 15 GiB."""
    child = read("output", "dra", "Deployment")
    apply(cluster, place, {**child, "spec": {**child["spec"], "replicas": 3}})
    two = "--for=jsonpath={.status.readyReplicas}=2"
    cluster.kubectl("wait", "-n", place, two, "deployment/dra", "--timeout=60s")
    pods = json.loads(cluster.kubectl("get", "pods", "-n", place, "-l", "slm.dev/name=dra", "-o", "json"))["items"]
    (waiting,) = [pod for pod in pods if "nodeName" not in pod["spec"]]
    assert "cannot allocate all claims" in waiting["status"]["conditions"][0]["message"]
    assert sorted(map(sorted, given_devices(cluster, place, "dra"))) == [
        ["dra-mig-node/gpu-0", "dra-mig-node/gpu-1"],
        ["dra-node/gpu-0", "dra-node/gpu-1"],
    ]
