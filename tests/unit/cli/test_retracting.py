"""What a failed pull leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.exits import FAILURE, TIMEOUT, CommandFailed
from slm_operator.cli.naming import build_model, build_quant_job
from slm_operator.cli.retracting import retract
from slm_operator.ports import ObjectKey

MODEL = ObjectKey("SLMModel", "default", "tiny")
JOB = ObjectKey("QuantJob", "default", "tiny-q4-0")
REMOVE = "Remove it with: slm delete slmmodel/tiny"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SqliteCluster]:
    opened = SqliteCluster(tmp_path / "objects.db")
    yield opened
    opened.close()


async def fail(cluster: SqliteCluster, reason: str) -> None:
    """A model and a QuantJob of it, whose resolve has failed for a reason."""
    await cluster.apply(build_model("tiny", "default", {"path": "/m"}))
    await cluster.apply(build_quant_job("tiny-q4-0", "default", "tiny", "Q4_0"))
    labels = {"slm.dev/kind": "SLMModel", "slm.dev/name": "tiny"}
    meta = {"name": "tiny-resolve-1", "namespace": "default", "labels": labels}
    await cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {}})
    condition: dict[str, Any] = {"type": "Failed", "status": "True", "reason": reason}
    await cluster.update_status(ObjectKey("Job", "default", "tiny-resolve-1"), {"conditions": [condition]})


async def left(cluster: SqliteCluster) -> list[str]:
    return [item["kind"] for kind in ("SLMModel", "QuantJob") for item in await cluster.list(kind)]


async def test_of_a_refused_model_nothing_is_kept_that_this_call_made(cluster: SqliteCluster) -> None:
    await fail(cluster, "PodFailurePolicy")
    error = await retract(cluster, CommandFailed("UnsafeFormat: pickles."), MODEL, [MODEL, JOB])
    assert str(error) == "UnsafeFormat: pickles. Nothing was kept of it."
    assert error.code == FAILURE
    assert await left(cluster) == []


@pytest.mark.parametrize(
    ("reason", "new"), [("PodFailurePolicy", [JOB]), ("BackoffLimitExceeded", [MODEL, JOB]), ("PodFailurePolicy", [])]
)
async def test_what_was_there_or_may_be_mended_stays_with_a_word_on_how_to_remove_it(
    cluster: SqliteCluster, reason: str, new: list[ObjectKey]
) -> None:
    await fail(cluster, reason)
    error = await retract(cluster, CommandFailed("No."), MODEL, new)
    assert str(error) == f"No. {REMOVE}"
    assert await left(cluster) == ["SLMModel", "QuantJob"]


async def test_a_model_that_was_resolved_or_is_only_slow_is_left_alone(cluster: SqliteCluster) -> None:
    await fail(cluster, "PodFailurePolicy")
    late = CommandFailed("Timed out.", TIMEOUT)
    assert await retract(cluster, late, MODEL, [MODEL]) is late
    await cluster.update_status(MODEL, {"revision": "0" * 40})
    failed = CommandFailed("GateFailed.")
    assert await retract(cluster, failed, MODEL, [MODEL]) is failed
    assert await left(cluster) == ["SLMModel", "QuantJob"]
