"""Selectors, watching, forms for programs and completion, as kubectl's users know them."""

import json
import subprocess
import sys
from typing import IO

import yaml

from tests.local.cli_support import Slm, model, slm

__all__ = ["slm"]


def labelled(name: str, team: str) -> str:
    return model(name).replace(f"name: {name}}}", f"name: {name}, labels: {{team: {team}}}}}", 1)


def test_labels_and_kinds_select_what_is_shown_and_deleted(slm: Slm) -> None:
    manifests = "---\n".join([labelled("a", "red"), labelled("b", "blue"), labelled("c", "blue")])
    slm.good("apply", "-f", "-", stdin=manifests)
    assert slm.good("get", "slm", "-l", "team=red", "-o", "name") == "slmmodel.slm.dev/a\n"
    text = slm.good("describe", "slm", "-l", "team=blue")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("Name:")] == ["b", "c"]
    assert slm.good("describe", "slm").count("Kind:") == 3
    assert "no SLMModel in namespace default with team=green" in slm("describe", "slm", "-l", "team=green").stderr
    assert "--all takes every one" in slm.bad(2, "delete", "slm")
    assert slm.good("delete", "slm", "-l", "team=red") == "slmmodel.slm.dev/a deleted\n"
    assert slm.good("delete", "slm", "--all").splitlines() == [f"slmmodel.slm.dev/{name} deleted" for name in "bc"]
    assert "no SLMModel in namespace default" in slm("delete", "slm", "--all").stderr


def first_words(stream: IO[str] | None) -> str:
    assert stream
    return (stream.readline().split() or [""])[0]


def test_a_watch_prints_what_is_there_and_then_each_change_of_what_was_selected(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=labelled("a", "red"))
    command = [sys.executable, "-m", "slm_operator.cli.main", "get", "slm", "-w", "-l", "team=red"]
    with subprocess.Popen(command, env=slm.environment, stdout=subprocess.PIPE, text=True) as watch:
        assert [first_words(watch.stdout) for _ in range(2)] == ["NAME", "a"]
        slm.good("apply", "-f", "-", stdin=labelled("b", "blue"))
        slm.good("apply", "-f", "-", stdin=labelled("c", "red"))
        assert first_words(watch.stdout) == "c"
        watch.terminate()


def test_programs_read_processes_events_and_the_daemons_state_as_json_or_yaml(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    assert json.loads(slm.good("ps", "-o", "json")) == {"items": []}
    assert yaml.safe_load(slm.good("events", "-o", "yaml")) == {"items": []}
    state = json.loads(slm("status", "-o", "json").stdout)
    assert state["daemon"] == {"running": False, "processId": None}
    assert state["objects"] == [{"kind": "SLMModel", "ready": 0, "reconciling": 0, "stalled": 0, "total": 1}]
    assert state["state"] == str(slm.state)


def test_the_completion_script_is_one_that_the_shell_takes(slm: Slm) -> None:
    script = slm.good("completion", "bash")
    done = subprocess.run(["bash", "-c", f"{script}\ncomplete -p slm"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "complete -o default -F _slm_completion slm"
    assert slm.good("completion", "zsh").startswith("#compdef slm")
    assert slm.good("completion", "fish").startswith("complete --command slm")
    assert "'csh' is not one of" in slm.bad(2, "completion", "csh")
