"""Deleting on a real API server: objects go once the store is clean, and a namespace goes with everything in it."""

import asyncio
import json
from pathlib import Path

import pytest

from dev.cluster.access import Access
from slm_operator.adapters.kube_client import KubeClient
from slm_operator.core.manifests.metadata import FINALIZER
from tests.operator.test_kills import scene
from tests.support.fleet import Fleet
from tests.support.operator_process import OperatorProcess, free_port


def operator(folder: Path, cluster: Access, namespace: str) -> OperatorProcess:
    settings = {"SLM_WATCH_NAMESPACES": namespace, "SLM_OPERATOR_NAMESPACE": namespace, "SLM_LEASE_SECONDS": "15"}
    settings["SLM_STORE_CLASS"] = "any"  # Without a class, and without a default one, nothing starts.
    return OperatorProcess(folder, cluster.kubeconfig, free_port(), **settings)


async def gone(client: KubeClient, path: str, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while await client.read(path) is not None:
            await asyncio.sleep(0.2)


@pytest.mark.timeout(600)
async def test_objects_go_once_the_store_is_clean_and_a_namespace_goes_with_all_of_them(
    control_plane: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(control_plane, monkeypatch) as (client, whole, kubelet):
        fleet = Fleet(whole.namespace, quant_jobs=2)
        running = operator(tmp_path, control_plane, fleet.namespace)
        running.start()
        try:
            await fleet.apply(client)
            await fleet.wait(client, 300)
            base = f"/apis/slm.dev/v1alpha1/namespaces/{fleet.namespace}"
            held = await client.read(f"{base}/quantjobs/q1")
            assert held["metadata"]["finalizers"] == [FINALIZER]
            await client.write("DELETE", f"{base}/quantjobs/q1", {"propagationPolicy": "Foreground"})
            await gone(client, f"{base}/quantjobs/q1", 120)
            collected = {name: count for name, count in kubelet.ran.items() if "slm-collect-" in name}
            assert list(collected.values()) == [1]
            # A whole namespace: nothing can be created in it any more, and nothing holds it up.
            control_plane.kubectl("delete", "namespace", fleet.namespace, "--wait=false")
            await gone(client, f"{base}/slmmodels/m0", 120)
            await gone(client, f"{base}/quantjobs/q0", 120)
            claims = json.dumps(await client.read(f"/api/v1/namespaces/{fleet.namespace}/events"))
            assert "StoreNotCleaned" not in claims
        finally:
            running.kill()
