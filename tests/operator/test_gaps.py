"""What happens while nobody looks is found: deletions, and objects that were deleted and made anew under their name."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.access import Access
from slm_operator.adapters.kube_client import MERGE
from slm_operator.adapters.kube_kinds import KINDS, PUBLISHED
from slm_operator.core.manifests.metadata import controller_of
from tests.support.api_faults import Fault, gone
from tests.support.api_proxy import ApiProxy
from tests.support.scene import Scene, scene

pytestmark = pytest.mark.timeout(600)
WATCHED = [kind.plural for kind in KINDS.values() if kind.name not in PUBLISHED]
"""What the operator watches in chosen namespaces."""
NOTICED_SECONDS = 120.0
"""Longest wait for what takes some seconds on an idle machine."""


def path(stage: Scene, plural: str, name: str = "", group: str = "slm.dev/v1alpha1") -> str:
    found = f"/apis/{group}/namespaces/{stage.fleet.namespace}/{plural}"
    return f"{found}/{name}" if name else found


async def until_gone(stage: Scene, where: str) -> None:
    async with asyncio.timeout(NOTICED_SECONDS):
        while await stage.client.read(where) is not None:
            await asyncio.sleep(0.2)


async def until_another(stage: Scene, where: str, uid: str) -> dict[str, Any]:
    """The object once it is another one than that of ``uid``."""
    async with asyncio.timeout(NOTICED_SECONDS):
        while (found := await stage.client.read(where)) is None or found["metadata"]["uid"] == uid:
            await asyncio.sleep(0.2)
    return dict(found)


async def test_deletions_while_the_operator_is_down_are_noticed(control_plane: Access, tmp_path: Path) -> None:
    async with scene(control_plane, tmp_path, quant_jobs=2) as stage:
        operator = stage.operator()
        await stage.fleet.apply(stage.client)
        await stage.settle()
        operator.kill()
        engine = path(stage, "deployments", "s0", "apps/v1")
        before = (await stage.client.read(engine))["metadata"]["uid"]
        await stage.client.write("DELETE", engine, {"propagationPolicy": "Background"})
        await stage.client.write("DELETE", path(stage, "quantjobs", "q1"), {})
        operator.start()
        await until_another(stage, engine, before)
        await until_gone(stage, path(stage, "quantjobs", "q1"))
        await stage.settle()
        collections = [count for name, count in stage.kubelet.ran.items() if "slm-collect-" in name]
        assert collections == [1], "its bytes were collected, once"
        await stage.healthy(operator)


async def test_what_went_and_came_again_in_a_gap_of_the_watches_is_noticed(
    control_plane: Access, tmp_path: Path
) -> None:
    with ApiProxy(control_plane.kubeconfig, tmp_path) as proxy:
        async with scene(control_plane, tmp_path, quant_jobs=2) as stage:
            operator = stage.operator(proxy.kubeconfig)
            await stage.fleet.apply(stage.client)
            await stage.settle()
            proxy.inject(Fault(drop=True, verbs=frozenset({"watch"})))
            proxy.cut_watches()
            old = await replace_in_the_gap(stage)
            # No watch may go on where it was: all begin anew with a list, which tells no deletion.
            proxy.heal(*(gone("event", [resource]) for resource in WATCHED))
            await stage.settle()
            found = await stage.client.read(path(stage, "quantjobs", "q1"))
            assert [row["type"] for row in found["status"]["variants"]] == ["Q5_1"]
            jobs = await stage.fleet.objects(stage.client, "Job")
            mine = [job for job in jobs if job["metadata"]["labels"]["slm.dev/name"] == "q1"]
            assert {controller_of(job) for job in mine} == {found["metadata"]["uid"]} != {old}
            await until_logged(stage, "deleted unseen", f"InferenceService/{stage.fleet.namespace}/s0")
            await stage.healthy(operator)


async def replace_in_the_gap(stage: Scene) -> str:
    """Delete a service; delete a QuantJob as an impatient admin does, and make another of its name. Answers its uid."""
    client, where = stage.client, path(stage, "quantjobs", "q1")
    await client.write("DELETE", path(stage, "inferenceservices", "s0"), {"propagationPolicy": "Background"})
    old: str = (await client.read(where))["metadata"]["uid"]
    await client.write("DELETE", where, {"propagationPolicy": "Background"})
    await client.write("PATCH", where, {"metadata": {"finalizers": None}}, content=MERGE)
    await until_gone(stage, where)
    manifest = next(each for each in stage.fleet.manifests() if each["metadata"]["name"] == "q1")
    manifest["spec"]["variants"] = ["Q5_1"]
    await client.write("POST", path(stage, "quantjobs"), manifest)
    return old


async def until_logged(stage: Scene, message: str, about: str) -> None:
    (operator,) = stage.operators
    async with asyncio.timeout(NOTICED_SECONDS):
        while not any(line["message"] == message and line.get("object") == about for line in operator.lines()):
            await asyncio.sleep(0.5)
