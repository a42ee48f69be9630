"""API server and etcd restarted while the operator works: it waits, stays healthy, and nothing is done twice."""

import asyncio
from pathlib import Path

import pytest

from dev.cluster.cluster import Cluster
from tests.support.scene import scene, undisturbed_outcome

pytestmark = pytest.mark.timeout(900)
OUTAGES = (("kube-apiserver", True), ("etcd", True), ("kube-apiserver", False), ("etcd", False))
"""What is restarted, and whether by SIGKILL."""


async def test_the_api_server_and_etcd_are_restarted_and_killed(own_control_plane: Cluster, tmp_path: Path) -> None:
    undisturbed = await undisturbed_outcome(own_control_plane, tmp_path)
    async with scene(own_control_plane, tmp_path, longest_seconds=2.0) as stage:  # The work outlasts the outages.
        for _ in range(2):
            await stage.ready(stage.operator())
        await stage.fleet.apply(stage.client)
        during = 0
        for component, kill in OUTAGES:
            await asyncio.sleep(1.5)
            during += bool(await stage.fleet.not_ready(stage.client))
            await asyncio.to_thread(own_control_plane.restart_component, component, kill=kill)
        await stage.check(undisturbed)
    assert during >= 3, "most outages came after the work"


async def test_a_standby_and_a_leader_survive_minutes_without_an_api_server(
    own_control_plane: Cluster, tmp_path: Path
) -> None:
    undisturbed = await undisturbed_outcome(own_control_plane, tmp_path)
    async with scene(own_control_plane, tmp_path) as stage:
        for _ in range(2):
            await stage.ready(stage.operator(SLM_LEASE_SECONDS="6"))
        await stage.leader()
        own_control_plane.stop_component("kube-apiserver", kill=True)
        await asyncio.sleep(12.0)  # Twice as long as the Lease: nobody may act any more.
        assert [each.leads() for each in stage.operators] == [False, False]
        await asyncio.to_thread(own_control_plane.start_component, "kube-apiserver")
        await stage.fleet.apply(stage.client)
        await stage.check(undisturbed)
