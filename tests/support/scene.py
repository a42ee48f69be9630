"""The stage of fault tests: a namespace on a real API server, a node that plays Pods, a fleet, and operators."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.access import Access
from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from tests.support.fleet import Fleet, differences
from tests.support.kube import count_nothing
from tests.support.operator_process import OperatorProcess, free_port
from tests.support.step_kubelet import StepKubelet

SETTLE_SECONDS = 400.0
"""Longest wait for a fleet that takes a quarter of a minute on an idle machine."""


@dataclass
class Scene:
    """What a test sees of it."""

    cluster: Access
    folder: Path
    client: KubeClient
    """Of the test itself: no fault is ever in its way but an API server that is not there."""
    fleet: Fleet
    kubelet: StepKubelet
    operators: list[OperatorProcess] = field(default_factory=list)

    def operator(self, kubeconfig: Path | None = None, module: str = "", **settings: str) -> OperatorProcess:
        """Another replica, started; it is ended with the scene. ``module`` is run instead of the operator's own."""
        namespace = self.fleet.namespace
        chosen = {
            "SLM_WATCH_NAMESPACES": namespace,
            "SLM_OPERATOR_NAMESPACE": namespace,
            "SLM_STORE_CLASS": "any",  # Without a class, and without a default one, nothing starts.
            **settings,
        }
        made = OperatorProcess(self.folder, kubeconfig or self.cluster.kubeconfig, free_port(), module, **chosen)
        self.operators.append(made)
        made.start()
        return made

    async def ready(self, operator: OperatorProcess) -> None:
        """Until its caches are filled; meanwhile the node goes on playing."""
        await asyncio.to_thread(operator.wait_ready, 120)

    async def leader(self) -> OperatorProcess:
        """The operator that acts."""
        async with asyncio.timeout(120):
            while True:
                for each in self.operators:
                    if await asyncio.to_thread(each.leads):
                        return each
                await asyncio.sleep(0.1)

    async def settle(self) -> dict[str, Any]:
        """Wait until all of the fleet is Ready; answers what came out."""
        await self.fleet.wait(self.client, SETTLE_SECONDS)
        return await self.fleet.outcome(self.client)

    async def check(self, undisturbed: dict[str, Any]) -> None:
        """The fleet ends as if nothing had happened, nothing was done twice, and no operator came to harm."""
        assert differences(await self.settle(), undisturbed) == {}
        self.check_work()
        for each in self.operators:
            await self.healthy(each)

    def check_work(self) -> None:
        """No step ran twice."""
        assert {name: count for name, count in self.kubelet.ran.items() if count != 1} == {}

    async def healthy(self, operator: OperatorProcess) -> None:
        """It never ended, its probe says that it is well, and it hit no bug."""
        assert operator.process is not None
        assert operator.process.poll() is None, f"it ended: {operator.log.read_text()[-2000:]}"
        async with asyncio.timeout(120):
            while (answer := await asyncio.to_thread(operator.get, "/healthz")) != (200, "ok\n"):
                await asyncio.sleep(1.0)
        assert answer[0] == 200
        assert operator.bugs() == []


@asynccontextmanager
async def scene(
    cluster: Access, folder: Path, *, quant_jobs: int = 6, longest_seconds: float = 0.3
) -> AsyncIterator[Scene]:
    """A scene; steps take up to ``longest_seconds``."""
    namespace = f"fleet-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        async with open_api() as api:
            client = KubeClient(api, Always(), count_nothing)
            kubelet = StepKubelet(client, longest_seconds=longest_seconds)
            made = Scene(cluster, folder, client, Fleet(namespace, quant_jobs), kubelet)
            playing = asyncio.create_task(kubelet.run())
            try:
                yield made
            finally:
                for each in made.operators:
                    each.kill()
                playing.cancel()
                await asyncio.wait([playing])
                cluster.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


async def undisturbed_outcome(cluster: Access, folder: Path, **shape: Any) -> dict[str, Any]:
    """What the same fleet comes to when nothing happens."""
    async with scene(cluster, folder, **shape) as stage:
        stage.operator()
        await stage.fleet.apply(stage.client)
        return await stage.settle()
