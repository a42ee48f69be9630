"""What a user sees of the three kinds, with the same commands and the same sentences on a laptop and on a cluster.

`slm` and `kubectl` take the same verbs. Whatever differs between the two is named in `Place`, and nowhere else.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.demo.cluster_run import RESTRICTED
from tests.support.backend import local_backend
from tests.support.clusters import namespaces_of
from tests.support.hub import Hub
from tests.support.installed import NODE_TESTS, TINY, Installed, model, quant_job, service
from tests.support.models import write_model

Manifest = dict[str, Any]
WAIT_SECONDS = 300


@dataclass(frozen=True)
class Place:
    """Where manifests are applied, and how it is asked."""

    command: tuple[str, ...]
    """``slm``, or kubectl in a namespace."""
    environment: Mapping[str, str]
    hub: Hub
    fetch: Callable[[Manifest, str], Any]
    """JSON of a path of a service's address, asked as far inside as can be from here."""
    children: Callable[[str, str], list[str]]
    """What runs or answers for the object of a kind and name."""

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Any exit code."""
        command = [*self.command, *arguments]
        return subprocess.run(
            command, input=stdin, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=600
        )

    def good(self, *arguments: str, stdin: str = "") -> str:
        """What a command printed that must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *manifests: Manifest) -> list[str]:
        """One word for each: created, configured or unchanged."""
        said = self.good("apply", "-f", "-", stdin=as_text(*manifests))
        return [line.split()[1] for line in said.splitlines()]

    def get(self, kind: str, name: str) -> Manifest:
        """An object."""
        found: Manifest = json.loads(self.good("get", kind, name, "-o", "json"))
        return found

    def condition(self, kind: str, name: str, which: str = "Ready") -> tuple[str, str, str]:
        """Status, reason and message; empty ones before there are any."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        found: dict[str, str] = next((each for each in conditions if each["type"] == which), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def wait_for(self, kind: str, name: str, reason: str) -> str:
        """The message, once the object is Ready or not for this reason."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := self.condition(kind, name))[1] != reason:
            assert time.monotonic() < deadline, f"{kind} {name} is not {reason}: {found}"
            time.sleep(0.2)
        return found[2]

    def wait_ready(self, kind: str, name: str) -> Manifest:
        """The object, once the wait command says that it is Ready and of the newest spec."""
        self.good("wait", "--for=condition=Ready", f"{kind}/{name}", f"--timeout={WAIT_SECONDS}s")
        found = self.get(kind, name)
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        return found

    def wait_until(self, holds: Callable[[], object], otherwise: str) -> None:
        """Return once it holds."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.2)


def as_text(*manifests: Manifest) -> str:
    """Manifests as a file holds them."""
    return "\n---\n".join(map(json.dumps, manifests))


@contextmanager
def on_a_laptop(folder: Path) -> Iterator[Place]:
    """The local backend, with a hub on loopback."""
    write_model(folder / "hub" / TINY)
    with Hub(folder / "hub") as hub, local_backend(folder / "home", hub.endpoint) as backend:

        def children(kind: str, name: str) -> list[str]:
            rows = json.loads(backend.slm("ps", "-o", "json"))["items"]
            return [row["pod"] for row in rows if row["owner"] == f"{kind.lower()}/{name}"]

        def fetch(found: Manifest, path: str) -> Any:
            return httpx.get(found["status"]["url"] + path, timeout=60).raise_for_status().json()

        command = (sys.executable, "-m", "slm_operator.cli.main")
        yield Place(command, backend.environment, hub, fetch, children)


@contextmanager
def on_a_cluster(installed: Installed, hub: Hub) -> Iterator[Place]:
    """A namespace of the cluster with a node, on which the chart is installed."""
    cluster = installed.cluster
    with namespaces_of(cluster) as make:
        namespace = make(RESTRICTED)

        def children(kind: str, name: str) -> list[str]:
            owned = ("get", "deployments,services,jobs,pods,poddisruptionbudgets", "-o", "name")
            return cluster.kubectl(*owned, "-n", namespace, "-l", f"slm.dev/kind={kind},slm.dev/name={name}").split()

        def fetch(found: Manifest, path: str) -> Any:
            name = found["metadata"]["name"]
            return json.loads(
                cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/services/{name}:80/proxy{path}")
            )

        command = (*cluster.command, "--kubeconfig", str(cluster.kubeconfig), "-n", namespace)
        yield Place(command, os.environ, hub, fetch, children)


@pytest.fixture(scope="module", params=["local", pytest.param("cluster", marks=NODE_TESTS)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "local":
        with on_a_laptop(tmp_path_factory.mktemp("laptop")) as found:
            yield found
        return
    installed: Installed = request.getfixturevalue("installed")
    with on_a_cluster(installed, request.getfixturevalue("node_hub")) as found:
        yield found


@dataclass(frozen=True)
class World:
    """One of each kind, Ready, and what was said on the way; and a service whose engine ends at once."""

    told: Mapping[str, str]


CHOICE = quant_job("Q8_0", "Q4_0", gate={"maxPerplexityIncrease": 1.0}, goal={"prefer": "smallest"})
CRASHING = service("crashing", extraArgs=["--no-such-option"])


@pytest.fixture(scope="module")
def world(place: Place) -> World:
    """Applied in the order in which nothing can work: first what needs the others."""
    told = {}
    assert place.apply(service(), CRASHING) == ["created", "created"]
    told["service"] = place.wait_for("slmsvc", "s", "QuantJobNotFound")
    assert place.apply(CHOICE) == ["created"]
    told["job"] = place.wait_for("qj", "q", "ModelNotFound")
    told["service then"] = place.wait_for("slmsvc", "s", "QuantJobNotReady")
    assert place.apply(model(place.hub)) == ["created"]
    for kind, name in (("slm", "m"), ("qj", "q"), ("slmsvc", "s")):
        place.wait_ready(kind, name)
    return World(told)


def test_what_a_manifest_names_may_come_later_and_is_waited_for_in_words(world: World) -> None:
    assert world.told == {
        "service": "QuantJob q does not exist in this namespace; apply it and this object goes on by itself.",
        "job": "SLMModel m does not exist in this namespace; apply it and this object goes on by itself.",
        "service then": "QuantJob q has not finished: ModelNotFound",
    }


def test_a_finished_model_and_job_say_what_they_are(place: Place, world: World) -> None:
    del world
    assert place.condition("slm", "m")[:2] == ("True", "Ready")
    assert "verified and stored." in place.condition("slm", "m")[2]
    for which, status in {"Ready": "True", "Succeeded": "True", "Reconciling": "False", "Stalled": "False"}.items():
        assert place.condition("qj", "q", which)[:2] == (status, "Succeeded")


def test_the_goal_picks_among_what_passed(place: Place, world: World) -> None:
    del world
    status = place.get("qj", "q")["status"]
    assert [(row["type"], row["gate"]) for row in status["variants"]] == [("Q8_0", "Passed"), ("Q4_0", "Passed")]
    assert status["selected"] == "Q4_0"
    assert status["selectionMessage"] == "Q4_0 is the smallest of Q8_0, Q4_0, which passed the gate and reach the goal."
    served = place.get("slmsvc", "s")["status"]
    assert (served["variant"], served["digest"]) == ("Q4_0", status["variants"][1]["blob"])


def test_the_address_answers_with_the_chosen_model(place: Place, world: World) -> None:
    del world
    found = place.get("slmsvc", "s")
    assert [each["id"] for each in place.fetch(found, "/v1/models")["data"]] == ["s"]
    assert place.condition("slmsvc", "s")[2] == f"1 of 1 engines answer at {found['status']['url']}/v1."


def test_a_second_apply_and_more_time_write_nothing(place: Place, world: World) -> None:
    del world
    objects = (("slm", "m"), ("qj", "q"), ("slmsvc", "s"))

    def versions() -> list[str]:
        return [place.get(kind, name)["metadata"]["resourceVersion"] for kind, name in objects]

    before = versions()
    assert place.apply(model(place.hub), CHOICE, service()) == ["unchanged"] * 3
    time.sleep(3)
    assert versions() == before


def test_another_context_size_replaces_the_engine_and_says_why(place: Place, world: World) -> None:
    del world
    assert context_of_a_slot(place) == 256
    assert place.apply(service(contextSize=512)) == ["configured"]
    place.wait_until(lambda: "RollingOut" in place.good("describe", "slmsvc", "s"), "the rollout is told")
    place.wait_until(lambda: place.condition("slmsvc", "s")[1] == "Ready", "the rollout ends")
    place.wait_ready("slmsvc", "s")
    assert context_of_a_slot(place) == 512
    assert "because --ctx-size changes from 1024 to 2048" in place.good("describe", "slmsvc", "s"), "four slots"


def context_of_a_slot(place: Place) -> int:
    settings = place.fetch(place.get("slmsvc", "s"), "/props")["default_generation_settings"]
    return int(settings["n_ctx"])


def test_zero_replicas_stop_the_engine_and_one_brings_it_back(place: Place, world: World) -> None:
    del world
    assert place.apply(service(replicas=0)) == ["configured"]
    said = place.wait_for("slmsvc", "s", "Stopped")
    assert said == "Scaled to zero replicas: set spec.replicas to 1 or more to serve."
    place.wait_until(lambda: place.get("slmsvc", "s")["status"].get("readyReplicas", 0) == 0, "the engine ends")
    assert place.apply(service(replicas=1)) == ["configured"]
    place.wait_for("slmsvc", "s", "Ready")
    assert place.fetch(place.wait_ready("slmsvc", "s"), "/v1/models")["data"]


def test_what_is_suspended_starts_nothing_and_goes_on_when_it_may(place: Place, world: World) -> None:
    del world
    assert place.apply(model(place.hub, "later", suspend=True)) == ["created"]
    said = place.wait_for("slm", "later", "Suspended")
    assert said == "Suspended before resolve: set spec.suspend to false to go on."
    assert place.children("SLMModel", "later") == []
    assert place.apply(model(place.hub, "later", suspend=False)) == ["configured"]
    digest = place.wait_ready("slm", "later")["status"]["digest"]
    assert digest == place.get("slm", "m")["status"]["digest"]


def test_a_gate_that_nothing_passes_stalls_with_the_figures(place: Place, world: World) -> None:
    del world
    assert place.apply(quant_job("Q4_0", name="strict", gate={"maxKLDivergence": 0})) == ["created"]
    said = place.wait_for("qj", "strict", "NoVariantPassed")
    assert place.condition("qj", "strict", "Stalled")[:2] == ("True", "NoVariantPassed")
    (row,) = place.get("qj", "strict")["status"]["variants"]
    assert (row["gate"], row["reason"]) == ("Failed", "GateFailed")
    assert row["message"] == f"KL divergence {row['klDivergence']:.6g} is above 0"
    assert said == f"No variant passed the gate: Q4_0: {row['message']}"
    assert place.apply(service("unlucky", quantJobRef={"name": "strict"})) == ["created"]
    said = place.wait_for("slmsvc", "unlucky", "VariantNotAvailable")
    assert said.startswith("QuantJob strict offers no variant at all: No variant passed the gate")


MISTAKES: dict[str, tuple[Manifest, str]] = {
    "an unknown field": (quant_job("Q8_0", variant="Q8_0"), "spec.variant"),
    "a number below its bound": (service(replicas=-1), "spec.replicas"),
    "a word that is none of the choices": (service(task="sing"), "spec.task"),
    "two references": (service(modelRef={"name": "m"}), "modelRef"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_wrong_manifest_is_refused_and_the_field_is_named(place: Place, case: str) -> None:
    manifest, field = MISTAKES[case]
    wrong = {**manifest, "metadata": {"name": "wrong"}}
    done = place.run("apply", "-f", "-", stdin=as_text(wrong))
    assert done.returncode != 0
    assert field in done.stderr
    assert place.run("get", manifest["kind"], "wrong").returncode != 0, "nothing was stored"


def test_an_engine_that_ends_again_and_again_is_told_with_its_own_words(place: Place, world: World) -> None:
    del world
    said = place.wait_for("slmsvc", "crashing", "EngineCrashed")
    assert said.startswith("The engine ended ")
    assert "last with exit code 1: " in said
    assert "invalid argument: --no-such-option" in said
    assert place.condition("slmsvc", "crashing", "Stalled")[:2] == ("True", "EngineCrashed")


def test_a_deleted_service_takes_its_engine_and_its_address_along(place: Place, world: World) -> None:
    del world
    assert place.children("InferenceService", "s")
    place.good("delete", "slmsvc", "s")
    assert place.run("get", "slmsvc", "s").returncode != 0
    place.wait_until(lambda: not place.children("InferenceService", "s"), "children outlive the service")
    assert place.condition("qj", "q")[:2] == ("True", "Succeeded"), "what others made stays"
