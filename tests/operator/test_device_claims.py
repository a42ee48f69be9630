"""The operator on a cluster with a DRA driver's devices: it sees them, claims them, and leaves nothing behind."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster import kwok
from dev.cluster.cluster import Cluster
from slm_operator.adapters.kube_client import MERGE
from slm_operator.adapters.kube_kinds import KINDS
from slm_operator.ports import Manifest
from tests.support.api_faults import Fault
from tests.support.api_proxy import ApiProxy
from tests.support.scene import Scene, scene

pytestmark = pytest.mark.timeout(600)
INPUT = Path(__file__).resolve().parents[1] / "golden" / "cluster" / "input" / "vllm-dra.yaml"
EVERYWHERE = {"SLM_WATCH_NAMESPACES": "", "SLM_STORE_CLASS": "simulated", "SLM_ENGINE_IMAGES": "vllm/nvidia=vllm:1"}
MODEL = {"source": {"huggingFace": {"repo": "a/m"}}}
DRA = frozenset({"resourceslices", "deviceclasses", "resourceclaimtemplates", "/apis/resource.k8s.io/v1"})
SECONDS = 120.0
"""Longest wait for what takes some seconds on an idle machine."""


@pytest.fixture(scope="module")
def cluster(own_control_plane: Cluster) -> Cluster:
    """One node, with a taint that keeps steps away, and two GPUs."""
    node, *devices = list(yaml.safe_load_all(INPUT.read_text()))[2:]
    room = {**node["status"]["allocatable"], "pods": "110"}
    kwok.start(own_control_plane, pods=0, others=[{**node, "status": {"allocatable": room, "capacity": room}}])
    own_control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(devices))
    return own_control_plane


async def read(stage: Scene, kind: str, name: str = "") -> Any:
    found = await stage.client.read(KINDS[kind].path(stage.fleet.namespace, name))
    return found if name else found["items"]


async def until_allocated(stage: Scene, wanted: int) -> list[str]:
    """Names of the templates, once there are so many of them, and as many claims, which all have devices."""
    async with asyncio.timeout(SECONDS):
        while True:
            templates = [each["metadata"]["name"] for each in await read(stage, "ResourceClaimTemplate")]
            path = f"/apis/resource.k8s.io/v1/namespaces/{stage.fleet.namespace}/resourceclaims"
            claims = (await stage.client.read(path))["items"]
            given = [each for each in claims if "allocation" in each.get("status", {})]
            if len(templates) == len(given) == len(claims) == wanted:
                return templates
            await asyncio.sleep(0.2)


async def put(stage: Scene, kind: str, spec: Manifest) -> None:
    manifest = {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": {"name": "it"}, "spec": spec}
    await stage.client.write("POST", KINDS[kind].path(stage.fleet.namespace), manifest)


async def test_engines_claim_what_the_driver_publishes_and_old_templates_go(cluster: Cluster, tmp_path: Path) -> None:
    async with scene(cluster, tmp_path) as stage:
        operator = stage.operator(cluster.kubeconfig, **EVERYWHERE)
        await put(stage, "SLMModel", MODEL)
        await put(stage, "InferenceService", {"modelRef": {"name": "it"}})
        await stage.settle()
        (before,) = await until_allocated(stage, 1)
        accelerator = (await read(stage, "InferenceService", "it"))["status"]["accelerator"]
        assert (accelerator["deviceClass"], accelerator["count"]) == ("gpu.nvidia.com", 1)
        assert accelerator["message"].startswith("1 x NVIDIA A100 80GB PCIe, as on dra-node: it takes ")
        path = KINDS["InferenceService"].path(stage.fleet.namespace, "it")
        await stage.client.write("PATCH", path, {"spec": {"parallel": 64}}, content=MERGE)
        await stage.settle()
        (after,) = await until_allocated(stage, 1)
        assert after != before
        await stage.client.write("DELETE", path, {"propagationPolicy": "Background"})
        await until_allocated(stage, 0)
        await stage.healthy(operator)


async def test_an_api_server_that_knows_no_devices_is_no_fault(cluster: Cluster, tmp_path: Path) -> None:
    """As before Kubernetes 1.34."""
    with ApiProxy(cluster.kubeconfig, tmp_path) as proxy:
        proxy.inject(Fault(status=404, resources=DRA))
        async with scene(cluster, tmp_path) as stage:
            operator = stage.operator(proxy.kubeconfig, **EVERYWHERE)
            await put(stage, "SLMModel", MODEL)
            await put(stage, "InferenceService", {"modelRef": {"name": "it"}})
            await stage.settle()
            assert (await read(stage, "InferenceService", "it"))["status"]["runtime"] == "llama.cpp"
            await stage.healthy(operator)
            assert set(proxy.watching()) & DRA == set()
