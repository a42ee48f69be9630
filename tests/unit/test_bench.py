"""The benchmarks' own report: what a reader of build/bench finds, from a run too small to mean anything."""

import json
from pathlib import Path

import pytest

from tests.bench import reconcile
from tests.bench.harness import Goal, Report, run_process


def test_a_settled_pass_writes_nothing_and_the_report_has_every_part(tmp_path: Path) -> None:
    report = reconcile.run(tmp_path, services=5)
    document = json.loads(report.write(tmp_path / "bench").read_text())
    assert list(document) == [
        "name", "commit", "machine", "work", "figures", "ratios", "goals", "met", "notes",
    ]  # fmt: skip
    assert document["figures"]["slm reconcile"]["writes"] == 0
    assert document["figures"]["writes every time"]["writes"] > 5
    assert document["goals"]["writesPerObject"] == {"max": 0.0}


def test_a_missed_goal_is_not_met() -> None:
    goals = {"fast": Goal("min", 2.0), "small": Goal("max", 1.0)}
    assert not Report("n", "w", ratios={"fast": 1.9, "small": 1.0}, goals=goals).met
    assert Report("n", "w", ratios={"fast": 2.0, "small": 1.0}, goals=goals).met


def test_a_subject_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="exited with 3"):
        run_process(["sh", "-c", "exit 3"])
