"""Selectors, watching, forms for programs and completion, as kubectl's users know them."""

import asyncio
import json
import subprocess
import sys
from typing import IO

import yaml

from slm_operator.ports import EventRecord, ObjectKey
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


PAST = "the daemon is not running, so this is how things were: slm up\n"


def test_what_is_shown_without_a_daemon_is_called_the_past(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    record(slm, EventRecord(ObjectKey("SLMModel", "default", "a"), "Warning", "Tested", "a test"))
    for words in (["get", "slm"], ["get", "slm", "a", "-o", "wide"], ["describe", "slm", "a"], ["events"]):
        assert slm(*words).stderr == PAST, words
    for words in (["get", "slm", "-o", "name"], ["get", "slm", "-o", "json"], ["events", "-o", "yaml"]):
        assert slm(*words).stderr == "", words
    slm.good("up")
    assert slm("get", "slm").stderr == ""


def record(slm: Slm, *events: EventRecord) -> None:
    async def work() -> None:
        cluster = slm.cluster()
        for event in events:
            await cluster.record(event)
        cluster.close()

    asyncio.run(work())


def test_events_say_where_there_are_none(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    assert slm("events").stderr == "no events in namespace default\n"
    assert slm("events", "-A").stderr == "no events in any namespace\n"
    assert slm("events", "slm/a").stderr == "no events about slm/a\n"


def test_the_events_of_an_objects_pods_are_the_objects_too(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    pod = ObjectKey("Pod", "default", "a-resolve-0123abcd-1")
    record(slm, EventRecord(pod, "Warning", "Restarted", "The process ended with exit code 1."))
    header, row = slm.good("events", "slm", "a").splitlines()
    assert header.split() == ["AGE", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"]
    assert row.split()[1:5] == ["Warning", "Restarted", "pod/a-resolve-0123abcd-1", "1"]
    assert "pod/a-resolve-0123abcd-1" in slm.good("describe", "slm", "a")


def test_the_completion_script_is_one_that_the_shell_takes(slm: Slm) -> None:
    script = slm.good("completion", "bash")
    done = subprocess.run(["bash", "-c", f"{script}\ncomplete -p slm"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "complete -o default -F _slm_completion slm"
    assert slm.good("completion", "zsh").startswith("#compdef slm")
    assert slm.good("completion", "fish").startswith("complete --command slm")
    assert "'csh' is not one of" in slm.bad(2, "completion", "csh")
