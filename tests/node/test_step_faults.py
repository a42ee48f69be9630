"""What happens to work on a real node: its pods are killed, its volume is full, its namespace or its object goes."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.cluster import Cluster
from dev.cluster.node import controllers
from dev.demo.cluster_run import RESTRICTED
from tests.support.clusters import MakeNamespace
from tests.support.hub import Hub
from tests.support.installed import (
    NODE_TESTS,
    Installed,
    Namespace,
    drain,
    model,
    quant_job,
    uncordoned_afterwards,
    until,
)

pytestmark = NODE_TESTS
STEPS = ("resolve", "acquire", "convert", "quantize-Q8_0", "evaluate-baseline", "evaluate-Q8_0", "report")
TIMES = {"lastTransitionTime", "stepSeconds", "results", "storeUid"} | {"reportDigest", "reportHtml"}
"""What of a status no two runs have in common: how long it took, which the report's page tells, and where it ran."""


def outcome(place: Namespace) -> dict[str, Any]:
    """The final state of model and QuantJob, without times."""
    kinds = (("SLMModel", "m"), ("QuantJob", "q"))
    return {kind: without(TIMES, place.get(kind, name)["status"]) for kind, name in kinds}


def without(names: set[str], value: Any) -> Any:
    """The value without members of these names, at any depth."""
    if isinstance(value, dict):
        return {key: without(names, each) for key, each in value.items() if key not in names}
    return [without(names, each) for each in value] if isinstance(value, list) else value


def start(place: Namespace, hub: Hub) -> None:
    place.apply(model(hub), quant_job("Q8_0"))


def is_done(place: Namespace) -> bool:
    return place.ready("QuantJob", "q")[0] == "True"


def step_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["slm.dev/step"])


def running_steps(place: Namespace) -> list[dict[str, Any]]:
    """Pods of steps whose process runs."""
    pods = place.list("pods", "-l", "slm.dev/step,slm.dev/network!=serve")
    return [pod for pod in pods if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]


def wait_for_step(place: Namespace, beginning: str) -> None:
    """Return while a step runs whose label begins so."""
    until(
        lambda: any(step_of(pod).startswith(beginning) for pod in running_steps(place)),
        f"{beginning} never runs",
        pause_seconds=0.05,
    )


@pytest.fixture(scope="module")
def undisturbed(installed: Installed, new_node_namespace: MakeNamespace, node_hub: Hub) -> dict[str, Any]:
    """The final state when nobody does anything."""
    place = Namespace(installed.cluster, new_node_namespace(RESTRICTED))
    start(place, node_hub)
    place.wait_ready("QuantJob", "q")
    return outcome(place)


def delete_by_force(_cluster: Cluster, place: Namespace, pod: dict[str, Any]) -> bool:
    place.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--ignore-not-found")
    return True


def kill_process(cluster: Cluster, _place: Namespace, pod: dict[str, Any]) -> bool:
    """SIGKILL to the step's process, as a node that is short of memory does it; whether it was still there."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    found = False
    for folder, _, files in os.walk(controllers()[0] / cluster.node.namespace):  # Which bears that groups vanish.
        if Path(folder).name == container and "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                    found = True
    return found


WAYS = {"deleted by force": delete_by_force, "killed": kill_process}
LONG = bool(os.environ.get("SLM_SOAK"))
"""Every step in both ways; else every step in one of them, since each time costs the Job's back-off of ten seconds."""
VICTIMS = {way: set(STEPS if LONG else STEPS[number::2]) for number, way in enumerate(WAYS)}


@pytest.mark.soak
def test_a_step_that_is_ended_in_the_middle_is_done_again_with_the_same_outcome(
    installed: Installed, new_node_namespace: MakeNamespace, node_hub: Hub, undisturbed: dict[str, Any]
) -> None:
    places = {way: Namespace(installed.cluster, new_node_namespace(RESTRICTED)) for way in WAYS}
    struck: dict[str, set[str]] = {way: set() for way in WAYS}

    def strike() -> bool:
        for way, place in places.items():
            for pod in running_steps(place):
                if step_of(pod) in VICTIMS[way] - struck[way] and WAYS[way](installed.cluster, place, pod):
                    struck[way].add(step_of(pod))
        return all(map(is_done, places.values()))

    for place in places.values():
        start(place, node_hub)
    until(strike, "the work never ends", 900, 0.05)
    for way, place in places.items():
        assert len(struck[way]) >= len(VICTIMS[way]) - 1, f"{way}: only {struck[way]} were met while they ran"
        assert outcome(place) == undisturbed, way
        jobs = place.list("jobs")
        assert len(jobs) == len({job["metadata"]["name"] for job in jobs}) == len(STEPS), way


def test_steps_that_a_drain_puts_out_are_done_again_once_there_is_a_node(
    installed: Installed, place: Namespace, node_hub: Hub, undisturbed: dict[str, Any]
) -> None:
    start(place, node_hub)
    for step in ("acquire", "evaluate"):
        wait_for_step(place, step)
        with uncordoned_afterwards(installed.cluster):
            drain(installed.cluster)
            assert running_steps(place) == []
            until(lambda: "PodWaiting" in str(states(place)), f"nobody says that it waits: {states(place)}")
            assert "unschedulable" in str(states(place))
    place.wait_ready("QuantJob", "q")
    assert outcome(place) == undisturbed


def states(place: Namespace) -> list[tuple[str, str, str]]:
    return [place.ready(kind, name) for kind, name in (("SLMModel", "m"), ("QuantJob", "q"))]


@pytest.fixture
def small_volume(installed: Installed, place: Namespace) -> Iterator[Path]:
    """A file system of 8 MiB as the namespace's store, under the name of the claim that the operator uses."""
    folder = installed.cluster.folder / "node" / f"small-{place.name}"
    folder.mkdir()
    options = "size=8m,mode=0770,uid=65532,gid=65532"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    size = {"capacity": {"storage": "8Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {"hostPath": {"path": str(folder)}, "claimRef": {"namespace": place.name, "name": "slm-store"}}
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": place.name}
    try:
        place.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": place.name}, "spec": size | volume},
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "slm-store"},
                "spec": claim | {"resources": {"requests": {"storage": "8Mi"}}},
            },
        )
        yield folder
    finally:
        place.access.kubectl("delete", "namespace", place.name, "--ignore-not-found", "--timeout=120s")
        place.access.kubectl("delete", "pv", place.name, "--ignore-not-found", "--wait=false")
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_full_store_is_told_and_work_goes_on_once_there_is_room(
    place: Namespace, node_hub: Hub, small_volume: Path, undisturbed: dict[str, Any]
) -> None:
    start(place, node_hub)
    until(lambda: "MiB free" in place.ready("SLMModel", "m")[2], "nobody says that the store is full")
    status, reason, message = place.ready("SLMModel", "m")
    assert (status, reason) == ("False", "Acquiring")
    assert "but the store's disk has 8.0 MiB free: free some space" in message
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_volume)], check=True)
    place.wait_ready("QuantJob", "q", 600)
    assert outcome(place) == undisturbed


def test_a_namespace_that_is_deleted_while_work_runs_is_gone_in_time(place: Namespace, node_hub: Hub) -> None:
    start(place, node_hub)
    wait_for_step(place, "convert")
    place.access.kubectl("delete", "namespace", place.name, "--timeout=180s")
    left = place.access.kubectl("get", "slm-all,jobs,pods,pvc", "-A", "-o", "json")
    assert [each for each in json.loads(left)["items"] if each["metadata"]["namespace"] == place.name] == []


def test_what_is_deleted_while_no_operator_runs_goes_when_one_is_back(
    installed: Installed, place: Namespace, node_hub: Hub
) -> None:
    start(place, node_hub)
    place.wait_ready("QuantJob", "q")
    kept = set(blobs(installed, place))
    installed.scale_operator(0)
    try:
        place.kubectl("delete", "quantjob", "q", "--wait=false")
        assert place.get("QuantJob", "q")["metadata"]["deletionTimestamp"], "its bytes must go first"
    finally:
        installed.scale_operator(2)
    place.kubectl("wait", "--for=delete", "quantjob/q", "--timeout=180s")
    left = set(blobs(installed, place))
    assert left < kept, "what only it used is gone"
    place.wait_ready("SLMModel", "m")
    digests = [each["digest"] for each in (place.get("SLMModel", "m")["status"],)]
    assert {each.removeprefix("sha256:") for each in digests} <= left, "what the model uses is there"


def blobs(installed: Installed, place: Namespace) -> list[str]:
    """Names of the blobs in the namespace's store, which lies on this machine."""
    volume = place.get("pvc", "slm-store")["spec"]["volumeName"]
    folders = [path for path in (installed.cluster.folder / "volumes").iterdir() if path.name.startswith(volume)]
    return [path.name for folder in folders for path in (folder / "blobs" / "sha256").iterdir()]
