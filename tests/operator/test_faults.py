"""A network and an API server that misbehave, and clocks that disagree: always the same final state, no step twice."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.access import Access
from tests.support.api_calls import WRITES
from tests.support.api_faults import Fault, gone
from tests.support.api_proxy import ApiProxy
from tests.support.scene import Scene, scene, undisturbed_outcome

pytestmark = pytest.mark.timeout(900)
WATCHED = 10
"""Kinds that the operator watches."""
HOUR = 3600.0


@pytest.fixture(scope="module")
def undisturbed(control_plane: Access, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the fleet comes to when nothing happens."""
    return asyncio.run(undisturbed_outcome(control_plane, tmp_path_factory.mktemp("calm")))


async def unfinished(stage: Scene) -> bool:
    """Whether a fault would still fall into the work."""
    return bool(await stage.fleet.not_ready(stage.client))


async def test_watches_are_cut_and_told_that_they_are_too_old(
    control_plane: Access, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    generator, cuts = random.Random(1), 0  # noqa: S311 - moments, no secrets
    with ApiProxy(control_plane.kubeconfig, tmp_path) as proxy:
        async with scene(control_plane, tmp_path) as stage:
            await stage.ready(stage.operator(proxy.kubeconfig))
            await stage.fleet.apply(stage.client)
            while await unfinished(stage):
                proxy.heal()
                # Half of the watches that come back are told in one of two ways that their version is gone.
                proxy.inject(gone(generator.choice(["event", "status"]), limit=WATCHED // 2))
                cuts += proxy.cut_watches(clean=generator.random() < 0.5)
                await asyncio.sleep(generator.uniform(0.3, 1.5))
            await stage.check(undisturbed)
    assert cuts >= WATCHED, "nothing was disturbed"


async def test_an_error_inside_a_watch_does_not_end_the_operator(
    control_plane: Access, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """As an API server sends one while its etcd is away."""
    with ApiProxy(control_plane.kubeconfig, tmp_path) as proxy:
        async with scene(control_plane, tmp_path) as stage:
            operator = stage.operator(proxy.kubeconfig)
            await stage.ready(operator)
            await stage.fleet.apply(stage.client)
            proxy.inject(Fault(status=500, event=True, verbs=frozenset({"watch"}), limit=3))
            proxy.cut_watches()
            await stage.check(undisturbed)
            told = [str(line["message"]) for line in operator.lines()]
            assert "the watches ended, and begin anew" in told
            assert operator.stop() == 0, "SIGTERM is still the operator's own"


FAULTS = (
    Fault(status=429, retry_after_seconds=1, share=0.05),
    Fault(status=500, share=0.05),
    Fault(status=500, after=True, share=0.05),
    Fault(status=409, verbs=WRITES, share=0.05),
    Fault(status=409, verbs=WRITES, after=True, share=0.03),
    Fault(drop=True, share=0.03),
    Fault(drop=True, after=True, share=0.03),
    Fault(delay_seconds=1.5, share=0.05),
    Fault(delay_seconds=1.5, after=True, share=0.05),
)
"""Each call has about two chances in five that one of these meets it, and half of them meet what was done already."""


async def test_a_share_of_all_calls_fails_before_or_after_it_was_done(
    control_plane: Access, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with ApiProxy(control_plane.kubeconfig, tmp_path) as proxy:
        async with scene(control_plane, tmp_path) as stage:
            for _ in range(2):  # Also a Lease may be lost by it.
                await stage.ready(stage.operator(proxy.kubeconfig, SLM_LEASE_SECONDS="6"))
            proxy.inject(*FAULTS)
            await stage.fleet.apply(stage.client)
            await stage.settle()
            proxy.heal()
            await stage.check(undisturbed)
    assert [fault for fault in FAULTS if fault.picked == 0] == []


async def test_replicas_whose_clocks_disagree_by_hours(
    control_plane: Access, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    async with scene(control_plane, tmp_path) as stage:
        for ahead in (HOUR, -HOUR):
            skewed: dict[str, Any] = {"SKEW_SECONDS": str(ahead), "SLM_LEASE_SECONDS": "6"}
            await stage.ready(stage.operator(module="tests.support.skewed_operator", **skewed))
        await stage.fleet.apply(stage.client)
        led = []
        for _ in range(3):
            led.append(await stage.leader())
            await asyncio.sleep(2.0)
            led[-1].kill()
            led[-1].start()
        await stage.check(undisturbed)
    assert led[0] is not led[1], "each of them acted"
