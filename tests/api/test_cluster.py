"""The development cluster's command line, as far as it needs no cluster."""

from pathlib import Path

import pytest

from dev.cluster import __main__ as command


def test_asking_for_a_cluster_that_is_not_there_builds_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLM_CLUSTER_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SLM_CACHE_HOME", str(tmp_path / "cache"))
    assert command.show_status() == 1
    assert capsys.readouterr().out == "no cluster runs; start one: make cluster-up\n"
    assert list(tmp_path.iterdir()) == []
