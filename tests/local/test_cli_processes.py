"""What `slm delete`, `ps` and `down` say about processes is so, with a daemon and without one."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from slm_operator.adapters.process_table import ProcessRecord
from slm_operator.local.leftovers import read_records
from slm_operator.local.lifecycle import hold_daemonless, running_pid
from slm_operator.local.paths import LocalPaths
from slm_operator.ports import ObjectKey
from tests.local.cli_support import Slm, daemon_pid, has_ended, model, slm

__all__ = ["slm"]
STUBBORN = "trap '' TERM; while :; do sleep 0.1; done"
"""Ends only after its grace period."""
GRACE_SECONDS = 2


def engine_of(owner: dict[str, Any]) -> dict[str, Any]:
    """A Deployment that belongs to an object and takes its time to end."""
    labels = {"slm.dev/kind": owner["kind"], "slm.dev/name": owner["metadata"]["name"], "slm.dev/step": "serve"}
    container = {"name": "engine", "command": ["sh", "-c", STUBBORN]}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": GRACE_SECONDS},
    }
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
    reference |= {name: owner["metadata"][name] for name in ("name", "uid")}
    meta = {"name": owner["metadata"]["name"], "namespace": "default", "ownerReferences": [reference]}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def paths_of(slm: Slm) -> LocalPaths:
    return LocalPaths(slm.state, slm.home / "data", slm.home / "cache")


def start_engine(slm: Slm) -> ProcessRecord:
    """A model `a` that owns a running process."""
    slm.good("apply", "-f", "-", stdin=model("a"))
    slm.good("up")

    async def work() -> None:
        cluster = slm.cluster()
        owner = await cluster.get(ObjectKey("SLMModel", "default", "a"))
        assert owner
        await cluster.apply(engine_of(owner))
        cluster.close()

    asyncio.run(work())
    deadline = time.monotonic() + 30
    while not (found := [record for record in read_records(paths_of(slm)) if record.pid]):
        assert time.monotonic() < deadline, "no process was started"
        time.sleep(0.05)
    return found[0]


def kill_daemon(slm: Slm) -> None:
    pid = daemon_pid(slm)
    psutil.Process(pid).kill()
    assert has_ended(pid)


def test_delete_returns_only_when_the_processes_have_ended(slm: Slm) -> None:
    engine = start_engine(slm)
    assert slm.good("delete", "slm", "a") == "slmmodel.slm.dev/a deleted\n"
    assert not psutil.pid_exists(engine.pid)


def test_a_process_of_a_deleted_object_is_waited_for_no_longer_than_asked(slm: Slm) -> None:
    engine = start_engine(slm)
    message = slm.bad(4, "delete", "slm", "a", "--timeout", "0.2")
    assert message == f"error: The objects are deleted, but 1 process ({engine.pid}) has not ended yet; see slm ps.\n"


def test_without_a_daemon_delete_ends_the_processes_itself(slm: Slm) -> None:
    engine = start_engine(slm)
    kill_daemon(slm)
    assert psutil.pid_exists(engine.pid)
    slm.good("delete", "slm", "a")
    assert has_ended(engine.pid)
    assert read_records(paths_of(slm)) == []


def test_what_runs_on_is_said_and_listed_and_down_ends_it_without_a_daemon(slm: Slm) -> None:
    engine = start_engine(slm)
    kill_daemon(slm)
    done = slm("delete", "slm", "a", "--no-wait")
    assert f"1 process ({engine.pid}) has not ended, as the daemon is not running: slm up, or slm down" in done.stderr
    (row,) = (line.split() for line in slm.good("ps").splitlines()[1:])
    assert (row[0], row[1], row[2]) == (engine.pod, "(deleted)", str(engine.pid))
    assert "nothing is running" in slm("ps", "-n", "other").stderr
    (item,) = json.loads(slm.good("ps", "-o", "json"))["items"]
    assert (item["pod"], item["owner"], item["processId"]) == (engine.pod, "", engine.pid)
    assert "was not running; engines and jobs go on" in slm.good("down", "--keep-running")
    assert slm.good("down") == "the daemon was not running; 1 process that it had left has been ended\n"
    assert has_ended(engine.pid)
    assert slm.good("down") == "the daemon was not running\n"


def test_after_a_down_without_a_daemon_no_status_claims_that_something_runs(slm: Slm) -> None:
    start_engine(slm)
    kill_daemon(slm)
    slm.good("down")

    async def look() -> Any:
        cluster = slm.cluster()
        found = await cluster.get(ObjectKey("Deployment", "default", "a")), await cluster.list("Pod")
        cluster.close()
        return found

    deployment, pods = asyncio.run(look())
    assert deployment["status"]["replicas"] == 0
    assert pods == []


def test_a_command_that_stands_in_for_the_daemon_is_waited_for_and_never_signalled(tmp_path: Path) -> None:
    paths = LocalPaths(tmp_path, tmp_path, tmp_path)
    with hold_daemonless(paths):
        assert running_pid(paths) == 0
    assert running_pid(paths) is None


def test_up_starts_a_daemon_once_whoever_held_the_lock_is_done(slm: Slm) -> None:
    with ThreadPoolExecutor(1) as pool:
        with hold_daemonless(paths_of(slm)):
            coming = pool.submit(slm, "up")
            time.sleep(3)
            assert not coming.done()
        assert "the daemon is running" in coming.result().stdout
