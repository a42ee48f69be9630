"""What `slm wait` waits for, and when it gives up early."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dev import reference
from slm_contract.reasons import Reason
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.api.registry import INFOS
from slm_operator.cli import waiting
from slm_operator.cli.completing import complete_goal, complete_variant
from slm_operator.cli.exits import FAILURE, TIMEOUT, USAGE, CommandFailed
from slm_operator.cli.goals import CONDITIONS, Goal, check_condition, is_reached, parse_goal
from slm_operator.cli.naming import build_model
from slm_operator.core.conditions import Verdict, build_conditions
from slm_operator.ports import ObjectKey

KEY = ObjectKey("SLMModel", "default", "tiny")
READY = Goal("Ready", "True")


def test_goals_of_the_command_line() -> None:
    assert parse_goal("delete") == Goal("", "")
    assert parse_goal("condition=ready") == Goal("ready", "True")
    assert parse_goal("condition=Ready=false") == Goal("Ready", "False")
    with pytest.raises(CommandFailed, match="--for takes delete or condition=NAME"):
        parse_goal("ready")


def test_a_condition_about_an_older_generation_does_not_count() -> None:
    condition = {"type": "Ready", "status": "True", "observedGeneration": 1}
    manifest = {"metadata": {"generation": 2}, "status": {"conditions": [condition]}}
    assert not is_reached(manifest, Goal("Ready", "True"))
    assert is_reached({**manifest, "metadata": {"generation": 1}}, Goal("Ready", "True"))
    assert is_reached(None, Goal("", ""))


def test_a_condition_that_never_comes_is_refused_with_those_that_do() -> None:
    with pytest.raises(CommandFailed) as refused:
        check_condition(parse_goal("condition=Succeded"), ObjectKey("QuantJob", "default", "tiny"))
    assert refused.value.code == USAGE
    assert str(refused.value) == (
        "quantjob.slm.dev/tiny has no condition 'Succeded'; its conditions are Ready, Succeeded, Reconciling, Stalled."
    )
    check_condition(parse_goal("condition=succeeded"), ObjectKey("QuantJob", "default", "tiny"))
    check_condition(parse_goal("delete"), KEY)


@pytest.mark.parametrize("kind", INFOS)
def test_the_conditions_are_those_that_are_written_and_documented(kind: str) -> None:
    verdict = Verdict("ready", Reason.READY, "")
    written = build_conditions(verdict, [], 1, datetime.now(UTC), is_job=kind == "QuantJob")
    assert {each.type for each in written} == set(CONDITIONS[kind])
    assert set(CONDITIONS[kind]) <= set(reference.CONDITIONS)


def test_what_can_be_waited_for_and_made_is_completed() -> None:
    assert complete_goal("") == [
        "delete", "condition=Ready", "condition=Reconciling", "condition=Stalled", "condition=Succeeded",
    ]  # fmt: skip
    assert complete_goal("condition=S") == ["condition=Stalled", "condition=Succeeded"]
    assert complete_variant("Q4_K") == ["Q4_K_S", "Q4_K_M"]
    assert complete_variant("n") == ["none"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SqliteCluster]:
    opened = SqliteCluster(tmp_path / "objects.db")
    yield opened
    opened.close()


async def stall(cluster: SqliteCluster, message: str = "there is no such repository") -> None:
    """What a reconcile writes of a model that cannot be found."""
    entry: dict[str, Any] = {"reason": "RepositoryNotFound", "message": message, "observedGeneration": 1}
    conditions = [{"type": "Ready", "status": "False", **entry}, {"type": "Stalled", "status": "True", **entry}]
    await cluster.update_status(KEY, {"conditions": conditions})


async def wait_for(cluster: SqliteCluster, goal: Goal, seconds: float, *, keep_waiting: bool = False) -> float:
    """Seconds that the wait took."""
    clock = asyncio.get_running_loop().time
    began = clock()
    await waiting.await_goal(cluster, KEY, goal, began + seconds, keep_waiting=keep_waiting)
    return clock() - began


async def test_an_object_that_stalls_ends_the_wait_at_once_with_what_to_change(cluster: SqliteCluster) -> None:
    await cluster.apply(build_model("tiny", "default", {"path": "/m"}))
    began = asyncio.get_running_loop().time()
    later = asyncio.create_task(wait_for(cluster, READY, 60))
    await asyncio.sleep(0.05)
    await stall(cluster)
    with pytest.raises(CommandFailed, match="RepositoryNotFound: there is no such repository") as failed:
        await later
    assert asyncio.get_running_loop().time() - began < waiting.OLD_NEWS_SECONDS
    assert failed.value.code == FAILURE
    assert "--keep-waiting waits all the same" in str(failed.value)


async def test_a_stall_that_stood_before_counts_only_after_a_moment(
    cluster: SqliteCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "OLD_NEWS_SECONDS", 0.3)
    await cluster.apply(build_model("tiny", "default", {"path": "/m"}))
    await stall(cluster)
    began = asyncio.get_running_loop().time()
    with pytest.raises(CommandFailed, match="RepositoryNotFound"):
        await wait_for(cluster, READY, 60)
    assert 0.3 <= asyncio.get_running_loop().time() - began < 10


async def test_who_waits_for_the_stall_or_insists_is_not_sent_away(
    cluster: SqliteCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "OLD_NEWS_SECONDS", 0.0)
    await cluster.apply(build_model("tiny", "default", {"path": "/m"}))
    await stall(cluster)
    assert await wait_for(cluster, Goal("stalled", "True"), 5) < 1
    for goal, keep_waiting in ((READY, True), (Goal("Stalled", "False"), False), (Goal("", ""), False)):
        with pytest.raises(CommandFailed, match="Timed out waiting for") as failed:
            await wait_for(cluster, goal, 0.2, keep_waiting=keep_waiting)
        assert failed.value.code == TIMEOUT
