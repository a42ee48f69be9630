"""SIGKILL at random moments: two replicas, twenty QuantJobs, always the same final state."""

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.access import Access
from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from tests.support.fleet import Fleet
from tests.support.kube import count_nothing
from tests.support.operator_process import OperatorProcess, free_port
from tests.support.step_kubelet import StepKubelet

KILLS = 100 if os.environ.get("SLM_SOAK") else 10
LONGEST_STEP_SECONDS = 4.0 if os.environ.get("SLM_SOAK") else 0.5
"""Steps are long enough for the kills to fall into the work."""
LEASE_SECONDS = "6"


@asynccontextmanager
async def scene(
    cluster: Access, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[KubeClient, Fleet, StepKubelet]]:
    """A namespace, a client of the API server, and a node that plays Pods."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    namespace = f"kills-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace)
    async with open_api() as api:
        client = KubeClient(api, Always(), count_nothing)
        kubelet = StepKubelet(client, longest_seconds=LONGEST_STEP_SECONDS)
        playing = asyncio.create_task(kubelet.run())
        try:
            yield client, Fleet(namespace), kubelet
        finally:
            playing.cancel()
            await asyncio.wait([playing])
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def replicas(folder: Path, cluster: Access, namespace: str) -> list[OperatorProcess]:
    settings = {
        "SLM_WATCH_NAMESPACES": namespace,
        "SLM_OPERATOR_NAMESPACE": namespace,
        "SLM_LEASE_SECONDS": LEASE_SECONDS,
        "SLM_STORE_CLASS": "any",  # Without a class, and without a default one, nothing starts.
    }
    return [OperatorProcess(folder, cluster.kubeconfig, free_port(), **settings) for _ in range(2)]


def named_for(namespace: str, outcome: dict[str, Any]) -> str:
    """The outcome as text, whatever the namespace was called."""
    return repr(outcome).replace(namespace, "NAMESPACE")


@pytest.mark.timeout(3600)
async def test_a_killed_operator_leaves_the_same_state_as_an_undisturbed_one(
    control_plane: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for kills in (0, KILLS):
        async with scene(control_plane, monkeypatch) as (client, fleet, kubelet):
            running = replicas(tmp_path, control_plane, fleet.namespace)
            try:
                for each in running:
                    each.start()
                await fleet.apply(client)
                await kill(running, kills)
                await fleet.wait(client, 600)
            finally:
                for each in running:
                    each.kill()
            outcomes.append(named_for(fleet.namespace, await fleet.outcome(client)))
            assert set(kubelet.ran.values()) == {1}, "a step ran twice"
    assert outcomes[1] == outcomes[0]


async def kill(running: list[OperatorProcess], kills: int) -> None:
    """Kill one of the replicas at random moments, and start it again at once."""
    generator = random.Random(kills)  # noqa: S311 - not for secrets
    for _ in range(kills):
        await asyncio.sleep(generator.uniform(0.3, 3.0))
        victim = generator.choice(running)
        victim.kill()
        victim.start()
