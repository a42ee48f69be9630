"""What we build, as a real API server stores it: nothing to write a second time, and pods that are admitted."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev.cluster.cluster import Cluster
from slm_contract import specs
from slm_operator.api.inferenceservice import AcceleratorStatus, InferenceService
from slm_operator.api.meta import ResourceRequirements, Scheduling, Toleration
from slm_operator.api.registry import parse_resource
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.diff import is_applied, manifest_difference
from slm_operator.core.manifests.claim import build_claim
from slm_operator.core.manifests.deployment import Engine, Weights, build_budget, build_deployment, build_service
from slm_operator.core.manifests.job import JobShape, build_job
from slm_operator.core.manifests.network import build_policies
from slm_operator.core.placement import CPU, LLAMA_CPP, ClusterPods
from slm_operator.core.plan import Manifest
from slm_operator.core.resources import Memory
from slm_operator.core.runtimes.order import Order
from slm_operator.core.store import ClaimOwner
from tests.support.memory_cluster import ON_CLUSTER
from tests.support.planning import digest
from tests.unit.api.test_manifests import manifest

NAMESPACE = "restricted"
RESTRICTED: list[Manifest] = [
    {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    },
    {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "quota", "namespace": NAMESPACE},
        "spec": {
            "hard": {
                f"{part}.{name}": amount
                for part in ("requests", "limits")
                for name, amount in {"cpu": "100", "memory": "500Gi", "ephemeral-storage": "500Gi"}.items()
            }
        },
    },
    {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "limits", "namespace": NAMESPACE},
        "spec": {
            "limits": [
                {
                    "type": "Container",
                    "min": {"cpu": "10m", "memory": "8Mi"},
                    "max": {"cpu": "16", "memory": "64Gi"},
                    "default": {"cpu": "1", "memory": "128Mi"},
                    "defaultRequest": {"cpu": "100m", "memory": "64Mi"},
                }
            ]
        },
    },
]
SERVICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "qwen3-0.6b": {"replicas": 3, "extraArgs": ["--temp", "0.5"]},
    "quantities": {"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"memory": "2048Mi"}}},
    "scheduled": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}],
        "priorityClassName": "system-cluster-critical",
        "replicas": 0,
    },
    "unlimited": {"resources": {"limits": {"cpu": "1500m"}}},
}
STEPS: dict[str, specs.AnySpec] = {
    "resolve": specs.ResolveSpec(source=specs.Source(hugging_face=specs.HuggingFace(repo="o/n"))),
    "acquire": specs.AcquireSpec(
        source=specs.Source(hugging_face=specs.HuggingFace(repo="o/n")), revision="a" * 40, store="/store"
    ),
    "convert": specs.ConvertSpec(model=digest("m"), store="/store"),
    "collect": specs.CollectSpec(roots=[digest("m")], store="/store", kept_since=1.5),
}
SHAPES = {
    "plain": JobShape(),
    "given": JobShape(
        resources=ResourceRequirements(requests={"cpu": "1500m"}, limits={"memory": "1.5Gi"}),
        memory=Memory(5_000_000_000, 7_000_000_000),
        scheduling=Scheduling(node_selector={"disk": "fast"}, tolerations=[Toleration(key="gpu", operator="Exists")]),
        backoff_limit=0,
    ),
}


@pytest.fixture(scope="module")
def namespace(control_plane: Cluster) -> Iterator[Cluster]:
    """A namespace as a careful platform team sets it up."""
    for item in RESTRICTED:
        apply(control_plane, item)
    yield control_plane
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def apply(cluster: Cluster, document: Manifest) -> Manifest:
    """Server-side apply as the operator does it."""
    command = ("apply", "--server-side", "--field-manager=slm-operator", "--validate=strict", "-o", "json", "-f", "-")
    made: Manifest = json.loads(cluster.kubectl(*command, stdin=json.dumps(document)))
    return made


def owned(cluster: Cluster, kind: str, name: str, spec: dict[str, Any]) -> Any:
    """A resource of ours as it is on the server, so that its children may name it as their owner."""
    document = manifest(kind, spec, name=name)
    document["metadata"]["namespace"] = NAMESPACE
    made = apply(cluster, document)
    return parse_resource({name: made[name] for name in ("apiVersion", "kind", "metadata", "spec")})


def settles(cluster: Cluster, wanted: Manifest) -> None:
    found = apply(cluster, wanted)
    assert is_applied(wanted, found), manifest_difference(wanted, found)


def admitted(cluster: Cluster, template: Manifest) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": NAMESPACE, "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }
    command = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    made = json.loads(cluster.kubectl(*command, stdin=json.dumps(pod)))
    resources = made["spec"]["containers"][0]["resources"]
    # Nothing is left for a LimitRange to fill in with what suits nobody.
    assert resources.keys() == {"requests", "limits"}
    assert first_named(template, resources) == []


def first_named(template: Manifest, resources: Manifest) -> list[str]:
    """Resources that the server gave the container and the template does not."""
    ours = template["spec"]["containers"][0]["resources"]
    return [f"{part}.{name}" for part in resources for name in resources[part] if name not in ours.get(part, {})]


def build_engines(service: InferenceService) -> Manifest:
    weights = Weights("Q4_0", digest("blob"))
    order = Order("/store/blobs/x", "n", context_size=100, parallel=2, threads=0, host="0.0.0.0")
    program = ON_CLUSTER.engines[LLAMA_CPP, CPU]
    engine = Engine(LLAMA_CPP, program, order, weights, 10**9, 2 * 10**9, AcceleratorStatus())
    return build_deployment(service, engine, ON_CLUSTER, 1)


@pytest.mark.parametrize("name", SERVICES)
def test_the_children_of_a_service_settle_and_its_pods_are_admitted(namespace: Cluster, name: str) -> None:
    service = owned(namespace, "InferenceService", name, {"quantJobRef": {"name": "q"}, **SERVICES[name]})
    deployment = build_engines(service)
    for wanted in (deployment, build_service(service, ON_CLUSTER), build_budget(service)):
        settles(namespace, wanted)
    admitted(namespace, deployment["spec"]["template"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", STEPS)
def test_a_steps_job_settles_and_its_pod_is_admitted(namespace: Cluster, step: str, shape: str) -> None:
    hub = {"source": {"huggingFace": {"repo": "o/n", "tokenSecretRef": {"name": "hub"}}}}
    model: SLMModel = owned(namespace, "SLMModel", "m", hub)
    job = build_job(model, f"m-{step}-{shape}", STEPS[step], step, ON_CLUSTER, SHAPES[shape])
    settles(namespace, job)
    admitted(namespace, job["spec"]["template"])


def test_the_store_and_its_policies_settle(namespace: Cluster) -> None:
    claim = build_claim(NAMESPACE, ClusterPods(storage="10240Mi", storage_class="standard"))
    made = apply(namespace, claim)
    for policy in build_policies(ClaimOwner.of(made), ["http://hub.example:8080/x"], ["10.0.0.7:8443", "hub.lan"]):
        settles(namespace, policy)


def test_what_a_user_takes_out_of_the_spec_goes(namespace: Cluster) -> None:
    spec = {"quantJobRef": {"name": "q"}, **SERVICES["scheduled"]}
    before = build_engines(owned(namespace, "InferenceService", "changing", spec))
    found = apply(namespace, before)
    after = build_engines(owned(namespace, "InferenceService", "changing", {"quantJobRef": {"name": "q"}}))
    assert not is_applied(after, found)
    made = apply(namespace, copy.deepcopy(after))
    assert not {"nodeSelector", "tolerations", "priorityClassName"} & {
        name for name, value in made["spec"]["template"]["spec"].items() if value
    }
    assert is_applied(after, made), manifest_difference(after, made)
