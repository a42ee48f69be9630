"""Deleting on a real API server: objects go once the store is clean, and a namespace goes with everything in it."""

import asyncio
import json
from pathlib import Path

import pytest

from dev.cluster.access import Access
from slm_operator.adapters.kube_client import KubeClient
from slm_operator.core.manifests.metadata import FINALIZER
from tests.support.scene import scene


async def gone(client: KubeClient, path: str, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while await client.read(path) is not None:
            await asyncio.sleep(0.2)


@pytest.mark.timeout(600)
async def test_objects_go_once_the_store_is_clean_and_a_namespace_goes_with_all_of_them(
    control_plane: Access, tmp_path: Path
) -> None:
    async with scene(control_plane, tmp_path, quant_jobs=2) as stage:
        stage.operator()
        await stage.fleet.apply(stage.client)
        await stage.fleet.wait(stage.client, 300)
        base = f"/apis/slm.dev/v1alpha1/namespaces/{stage.fleet.namespace}"
        held = await stage.client.read(f"{base}/quantjobs/q1")
        assert held["metadata"]["finalizers"] == [FINALIZER]
        await stage.client.write("DELETE", f"{base}/quantjobs/q1", {"propagationPolicy": "Foreground"})
        await gone(stage.client, f"{base}/quantjobs/q1", 120)
        collected = {name: count for name, count in stage.kubelet.ran.items() if "slm-collect-" in name}
        assert list(collected.values()) == [1]
        # A whole namespace: nothing can be created in it any more, and nothing holds it up.
        control_plane.kubectl("delete", "namespace", stage.fleet.namespace, "--wait=false")
        await gone(stage.client, f"{base}/slmmodels/m0", 120)
        await gone(stage.client, f"{base}/quantjobs/q0", 120)
        claims = json.dumps(await stage.client.read(f"/api/v1/namespaces/{stage.fleet.namespace}/events"))
        assert "StoreNotCleaned" not in claims
