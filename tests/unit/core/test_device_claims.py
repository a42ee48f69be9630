"""GPUs of DRA drivers: what they publish and the spec says in, claims of pods and sentences out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_operator.adapters.kube_kinds import PUBLISHED
from slm_operator.api.inferenceservice import AcceleratorStatus
from slm_operator.api.registry import parse_resource
from slm_operator.core.manifests.resource_claim import build_claim_template
from slm_operator.core.placement import LLAMA_CPP, VLLM
from slm_operator.core.plan import ObjectKey
from tests.support.memory_cluster import ON_CLUSTER, MemoryCluster, Operated
from tests.support.planning import succeed_as
from tests.unit.core.test_choosing import (
    CPUS,
    GPU_LLAMA,
    H100,
    Manifest,
    container,
    model,
    node,
    refuse_engine,
    service,
)

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDED = yaml.safe_load((GOLDEN / "nodes" / "cluster.yaml").read_text())
REPO = "Qwen/Qwen3-8B"
DRIVER = "device.driver == 'gpu.nvidia.com'"
DRAWN = {"key": "nvidia.com/gpu", "operator": "Exists"}


def golden(name: str) -> tuple[Manifest, ...]:
    """Node, ResourceSlices and DeviceClass of a golden input."""
    documents = list(yaml.safe_load_all((GOLDEN / "cluster" / "input" / f"vllm-{name}.yaml").read_text()))
    return tuple(documents[2:])


def device_class(name: str, expression: str) -> Manifest:
    spec = {"selectors": [{"cel": {"expression": expression}}]}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name}, "spec": spec}


def recorded(words: str) -> tuple[Manifest, ...]:
    """A real node with what its driver publishes, and the driver's DeviceClass."""
    (record,) = [each for each in RECORDED if words in each["node"]]
    (found,) = record["slices"]
    allocatable = {name: amount for name, amount in record["allocatable"].items() if "/" not in name}
    pool = {**found["pool"], "name": "node"}
    published = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "devices"},
        "spec": {**found, "nodeName": "node", "pool": pool},
    }
    return (
        node(record["labels"], allocatable),
        published,
        device_class(found["driver"], f'device.driver == "{found["driver"]}"'),
    )


A100, MIG, PARTITIONS = golden("dra"), golden("dra-mig"), golden("dra-partitions")
MI300X = recorded("AMD's DRA driver")
SMALL: Manifest = json.loads(json.dumps(A100[1]).replace("80Gi", "5Gi"))
BOTH = {**A100[0], "status": {**A100[0]["status"], "allocatable": H100["status"]["allocatable"]}}
"""A device plugin offers what the driver does, too."""
OWN = device_class("large.example.com", f"{DRIVER} && device.attributes['gpu.nvidia.com'].productName.contains('A100')")
STANDING = {**A100[2], "spec": {**A100[2]["spec"], "extendedResourceName": "nvidia.com/gpu"}}
FOREIGN = device_class("nics", "device.driver == 'nic.example.com'")


async def operate(*published: Manifest, repo: str = REPO, **spec: Any) -> Operated:
    """A service after everything was done for it."""
    made = Operated(placement=replace(ON_CLUSTER, engines={**ON_CLUSTER.engines, **GPU_LLAMA}))
    await made.put(*published, model(repo), service(**spec))
    await made.settle(succeed_as(repo))
    return made


def found(made: Operated, kind: str, name: str = "s") -> Manifest:
    return made.cluster.objects[ObjectKey(kind, "default", name)]


def pod_spec(made: Operated, name: str = "s") -> Manifest:
    return dict(found(made, "Deployment", name)["spec"]["template"]["spec"])


def templates(made: Operated) -> dict[str, Manifest]:
    return {
        key.name: each["spec"]["spec"]["devices"]["requests"][0]["exactly"]
        for key, each in made.cluster.objects.items()
        if key.kind == "ResourceClaimTemplate"
    }


def claimed(made: Operated, name: str = "s") -> str:
    (claim,) = pod_spec(made, name)["resourceClaims"]
    return str(claim["resourceClaimTemplateName"])


@pytest.mark.parametrize(
    ("published", "spec", "runtime", "asked", "count", "message"),
    [
        (A100, {}, VLLM, "gpu.nvidia.com", 1, "1 x NVIDIA A100 80GB PCIe, as on dra-node: it takes 21.51 GiB of 80.00"),
        (A100, {"accelerator": "gpu"}, VLLM, "gpu.nvidia.com", 1, "1 x NVIDIA A100 80GB PCIe, as on dra-node: it"),
        (A100, {"runtime": "llama.cpp"}, LLAMA_CPP, "gpu.nvidia.com", 1, "1 x NVIDIA A100 80GB PCIe, as on dra-node"),
        (A100, {"tensorParallelSize": 2}, VLLM, "gpu.nvidia.com", 2, "2 x NVIDIA A100 80GB PCIe, as on dra-node: it"),
        # Its partitions are too small, and nobody could ask for the whole GPU beside them.
        (MIG, {}, LLAMA_CPP, "", 0, "CPUs."),
        # Those that are possible on one GPU, of which the smallest that has the memory is enough.
        (PARTITIONS, {}, VLLM, "mig.nvidia.com", 1, "1 x NVIDIA H100 80GB HBM3, MIG 3g.40gb, as on partitions-node"),
        (
            (*PARTITIONS, A100[2]),
            {"accelerator": "deviceclass/gpu.nvidia.com"},
            VLLM,
            "gpu.nvidia.com",
            1,
            "1 x NVIDIA H100 80GB HBM3, as on partitions-node: it takes ",
        ),
        (MI300X, {}, VLLM, "gpu.amd.com", 1, "1 x AMD Instinct MI300X OAM, dpx_nps1, as on node: it takes "),
        # The plugin's, as other pods of the node ask for these; unless the spec says otherwise.
        ((BOTH, *A100[1:]), {}, VLLM, "nvidia.com/gpu", 1, "1 x NVIDIA, as on dra-node: nobody publishes its memory."),
        (
            (BOTH, *A100[1:]),
            {"accelerator": "deviceclass/gpu.nvidia.com"},
            VLLM,
            "gpu.nvidia.com",
            1,
            "1 x NVIDIA A100 80GB PCIe, as on dra-node: it takes 21.51 GiB of 80.00 GiB.",
        ),
        (
            (*A100, OWN),
            {"accelerator": "deviceclass/large.example.com"},
            VLLM,
            "large.example.com",
            1,
            "1 x NVIDIA A100",
        ),
        # What the driver's chart says from Kubernetes 1.36 on: a claim has the memory, too.
        ((*A100[:2], STANDING), {"accelerator": "nvidia.com/gpu"}, VLLM, "gpu.nvidia.com", 1, "1 x NVIDIA A100 80GB"),
        # Nodes that an autoscaler brings, also where it is not known yet what they will publish.
        (
            (CPUS, A100[2]),
            {"accelerator": "deviceclass/gpu.nvidia.com"},
            VLLM,
            "gpu.nvidia.com",
            1,
            "1 x deviceclass/gpu.nvidia.com: no node is known that offers it, so nobody knows whether the model fits.",
        ),
        (
            (CPUS, OWN),
            {"accelerator": "deviceclass/large.example.com"},
            VLLM,
            "large.example.com",
            1,
            "1 x deviceclass",
        ),
        # Where nodes may not be read, names alone tell whose GPUs they are.
        (
            (),
            {"accelerator": "deviceclass/gpu.amd.com"},
            VLLM,
            "gpu.amd.com",
            1,
            "1 x deviceclass/gpu.amd.com",
        ),
        ((A100[0], SMALL, A100[2]), {}, LLAMA_CPP, "", 0, "CPUs."),
        (A100[:2], {}, LLAMA_CPP, "", 0, "CPUs."),
    ],
)
async def test_what_drivers_publish_and_the_spec_asks_for_decide(
    published: tuple[Manifest, ...], spec: Manifest, runtime: str, asked: str, count: int, message: str
) -> None:
    made = await operate(*published, **spec)
    told = found(made, "InferenceService")["status"]
    accelerator = told["accelerator"]
    assert (told["runtime"], accelerator["count"]) == (runtime, count)
    assert accelerator["message"].startswith(message)
    by_resource = "/" in asked
    assert (accelerator["resource"], accelerator["deviceClass"]) == ((asked, "") if by_resource else ("", asked))
    resources = container(made)["resources"]
    if asked and not by_resource:
        assert templates(made)[claimed(made)]["deviceClassName"] == asked
        assert templates(made)[claimed(made)]["count"] == count
        assert resources["claims"] == [{"name": "gpus"}]
        assert DRAWN in pod_spec(made)["tolerations"] or told["accelerator"]["vendor"] == "AMD"
        assert not any("/" in name for name in resources["limits"])
    else:
        assert templates(made) == {}
        assert "claims" not in resources
        assert "resourceClaims" not in pod_spec(made)


async def test_a_claim_asks_for_the_memory_and_for_partitions_of_one_size() -> None:
    made = await operate(*MIG, repo="Qwen/Qwen3-0.6B")
    request = templates(made)[claimed(made)]
    memory, profile = (each["cel"]["expression"] for each in request["selectors"])
    assert request["deviceClassName"] == "mig.nvidia.com"
    assert memory.startswith('"memory" in device.capacity["gpu.nvidia.com"] && ')
    needed = -(-found(made, "InferenceService")["status"]["accelerator"]["memoryBytes"] // 2**20)
    assert memory.endswith(f'.memory.compareTo(quantity("{needed}Mi")) >= 0')
    assert profile.endswith('device.attributes["gpu.nvidia.com"].profile == "1g.10gb"')


async def test_what_a_driver_publishes_is_text_in_a_claim_and_no_expression() -> None:
    made = await operate(CPUS)
    owner = parse_resource(found(made, "InferenceService"))
    accelerator = AcceleratorStatus(device_class="mig.nvidia.com", vendor="NVIDIA", count=1, partition='" || true || "')
    template = build_claim_template(owner, accelerator)  # type: ignore[arg-type]  # it is one
    (selector,) = template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["selectors"]
    assert selector["cel"]["expression"].endswith('.profile == "\\" || true || \\""')


@pytest.mark.parametrize(
    ("published", "spec", "message"),
    [
        (
            (A100[0], SMALL, A100[2]),
            {"accelerator": "deviceclass/gpu.nvidia.com"},
            "fits on no node: 2 x NVIDIA A100 80GB PCIe with 5.00 GiB (dra-node) lacks ",
        ),
        (
            A100[:2],
            {"runtime": "vllm"},
            "Nodes offer GPUs for DeviceClass gpu.nvidia.com, which does not exist: see whether the DRA driver's chart",
        ),
        (
            A100[:2],
            {"accelerator": "deviceclass/gpu.nvidia.com"},
            "Nodes offer GPUs for DeviceClass gpu.nvidia.com, which does not exist: see whether the DRA driver's chart",
        ),
        (
            A100,
            {"accelerator": "deviceclass/large.example.com"},
            "No DeviceClass large.example.com is known that selects devices of gpu.nvidia.com, gpu.amd.com, gpu.intel",
        ),
        ((*A100, FOREIGN), {"accelerator": "deviceclass/nics"}, "No DeviceClass nics is known that selects devices"),
        # As on an API server that knows no DeviceClasses.
        ((CPUS,), {"accelerator": "deviceclass/gpu.nvidia.com"}, "No DeviceClass gpu.nvidia.com is known that selects"),
        (A100, {"accelerator": "amd.com/gpu", "runtime": "llama.cpp"}, "llama.cpp is not configured"),
    ],
)
async def test_what_cannot_be_claimed_says_why_and_starts_nothing(
    published: tuple[Manifest, ...], spec: Manifest, message: str
) -> None:
    made = await operate(*published, **spec)
    reason, told = made.told("InferenceService", "s")
    assert reason == ("RuntimeNotAvailable" if "amd.com/gpu" in spec.values() else "DoesNotFit")
    assert message in told
    assert templates(made) == {}
    assert ObjectKey("Deployment", "default", "s") not in made.cluster.objects


async def test_a_class_that_comes_later_is_found() -> None:
    made = await operate(*A100, accelerator="deviceclass/large.example.com")
    await made.put(OWN)
    await made.settle(succeed_as(REPO))
    assert templates(made)[claimed(made)]["deviceClassName"] == "large.example.com"


def settle_deployment(made: Operated, name: str = "s", *, done: bool = True) -> None:
    """Let the Deployment controller have replaced all engines, or all but one."""
    deployment = found(made, "Deployment", name)
    replicas = deployment["spec"]["replicas"]
    deployment["status"] = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": replicas if done else replicas + 1,
        **dict.fromkeys(("updatedReplicas", "readyReplicas", "availableReplicas"), replicas),
    }


async def test_engines_from_before_keep_their_template_until_all_are_replaced() -> None:
    made = await operate(*A100)
    settle_deployment(made)
    await made.settle(succeed_as(REPO))
    before = claimed(made)
    await made.put(service(parallel=8))
    await made.settle(succeed_as(REPO))
    after = claimed(made)
    assert set(templates(made)) == {before, after}
    settle_deployment(made, done=False)
    await made.settle(succeed_as(REPO))
    assert set(templates(made)) == {before, after}, "an engine from before may still be made anew"
    settle_deployment(made)
    await made.settle(succeed_as(REPO))
    assert set(templates(made)) == {after}
    assert await made.look() == 0, "nothing is left to write"


async def test_on_cpus_again_no_template_is_left() -> None:
    made = await operate(*A100)
    await made.put(service(accelerator="none"))
    await made.settle(succeed_as(REPO))
    settle_deployment(made)
    await made.settle(succeed_as(REPO))
    assert templates(made) == {}


async def test_a_canary_claims_by_a_template_of_its_own_which_goes_with_it() -> None:
    rollout = {"canary": {"steps": [50]}}
    made = await operate(*A100, rollout=rollout)
    settle_deployment(made)
    await made.settle(succeed_as(REPO))
    before = claimed(made)
    await made.put(service(parallel=8, rollout=rollout))
    await made.settle(succeed_as(REPO))
    tried = claimed(made, "s-canary")
    assert claimed(made) == before
    assert set(templates(made)) == {before, tried}
    settle_deployment(made, "s-canary")
    overdue = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    found(made, "Deployment", "s-canary")["status"] |= {"readyReplicas": 0, "conditions": [overdue]}
    await made.settle(succeed_as(REPO))
    assert made.told("InferenceService", "s")[0] == "CanaryRolledBack"
    assert set(templates(made)) == {before}
    assert await made.look() == 0, "what is not tried again is not made again"


async def test_at_rest_nobody_looks_at_what_clusters_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    listed = MemoryCluster.list

    async def listen(cluster: MemoryCluster, kind: str, *rest: Any, **named: Any) -> Any:
        looked.append(kind)
        return await listed(cluster, kind, *rest, **named)

    monkeypatch.setattr(MemoryCluster, "list", listen)
    made = await operate(*A100)
    assert set(PUBLISHED) <= set(looked)
    looked.clear()
    assert await made.look() == 0
    assert looked
    assert not set(PUBLISHED) & set(looked)


async def test_engines_on_several_gpus_claim_equal_ones() -> None:
    made = await operate(*A100, tensorParallelSize=2)
    (claim,) = (each for key, each in made.cluster.objects.items() if key.kind == "ResourceClaimTemplate")
    equal = {"requests": ["gpus"], "matchAttribute": "gpu.nvidia.com/productName"}
    assert claim["spec"]["spec"]["devices"]["constraints"] == [equal]


async def test_a_suspended_service_makes_and_removes_no_template() -> None:
    made = await operate(*A100, suspend=True)
    assert templates(made) == {}
    assert ObjectKey("Deployment", "default", "s") not in made.cluster.objects


async def test_an_engine_that_no_node_takes_is_told_where_its_gpus_are() -> None:
    made = await operate(*A100)
    refuse_engine(made)
    await made.settle(succeed_as(REPO))
    reason, message = made.told("InferenceService", "s")
    assert reason == "PodWaiting"
    assert message.endswith("The model fits on 2 x NVIDIA A100 80GB PCIe with 80.00 GiB (dra-node).")


async def test_a_node_that_is_tainted_for_others_is_not_chosen() -> None:
    taints = [{"key": "team", "value": "a", "effect": "NoSchedule"}]
    made = await operate({**A100[0], "spec": {"taints": taints}}, *A100[1:], runtime="vllm")
    reason, message = made.told("InferenceService", "s")
    assert reason == "DoesNotFit"
    assert "Tainted, and not tolerated by spec.tolerations: " in message
