"""The operator on a node, installed once by the demo itself, for all tests that look at it or disturb it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import node
from dev.cluster.access import Access
from dev.cluster.cluster import Cluster
from dev.demo.cluster_run import RESTRICTED, SYSTEM, Stage
from dev.images.recipe import references
from tests.support import backend
from tests.support.clusters import MakeNamespace, skip_if_foreign
from tests.support.hub import Hub
from tests.support.models import write_model
from tests.support.trained import copy_trained_model

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "deployment/slm-operator"
TINY = "lab/tiny"
"""A repository with random weights, about 3 MB: every step of it takes a second or two."""
LITTLE = {"requests": {"cpu": "20m"}}
"""A node of two CPUs must hold the engines of several tests."""
NODE_TESTS = [pytest.mark.timeout(2400)]
"""Marks of every test on the node: the first one also builds what is missing."""


@dataclass(frozen=True)
class Installed:
    """A cluster on which ``make cluster-demo`` has been run."""

    cluster: Cluster
    build: Path
    """The demo's build folder."""
    output: str
    """What the demo told."""
    images: dict[str, str]
    """References by name of the image."""

    @property
    def result(self) -> dict[str, Any]:
        """``result.json`` of the demo."""
        found: dict[str, Any] = json.loads((self.build / "result.json").read_text())
        return found

    @property
    def demo(self) -> Stage:
        """The demo's own view of its namespace."""
        stage = Stage(self.cluster)
        stage.images = self.images
        return stage

    def scale_operator(self, replicas: int) -> None:
        """Change the number of operator pods, and wait until it is so."""
        self.cluster.kubectl("scale", "-n", SYSTEM, OPERATOR, f"--replicas={replicas}")
        if replicas:
            self.cluster.kubectl("rollout", "status", "-n", SYSTEM, OPERATOR, "--timeout=180s")
        else:
            arguments = ("--for=delete", "pod", "-l", "app.kubernetes.io/component=operator", "--timeout=180s")
            self.cluster.kubectl("wait", "-n", SYSTEM, *arguments)


@dataclass(frozen=True)
class Namespace:
    """A namespace on a cluster, used with kubectl."""

    access: Access
    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of kubectl in this namespace; raises CalledProcessError."""
        return self.access.kubectl("-n", self.name, *arguments, stdin=stdin)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply manifests."""
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Objects of a kind."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return found

    def ready(self, kind: str, name: str) -> tuple[str, str, str]:
        """Status, reason and message of the Ready condition; empty ones before there is any."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        found: dict[str, str] = next((each for each in conditions if each["type"] == "Ready"), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def wait_ready(self, kind: str, name: str, seconds: int = 300) -> dict[str, Any]:
        """The object once it is Ready; when it is not in time, the failure says what it is instead."""
        try:
            self.kubectl("wait", "--for=condition=Ready", f"{kind}/{name}", f"--timeout={seconds}s")
        except subprocess.CalledProcessError as error:
            raise AssertionError(f"{kind}/{name}: {self.ready(kind, name)}") from error
        return self.get(kind, name)


@pytest.fixture(scope="session")
def installed(node_cluster: Access, tmp_path_factory: pytest.TempPathFactory, worker_name: str) -> Installed:
    """The demo, played once on the cluster with a node: it builds and loads images and installs the chart."""
    skip_if_foreign()
    assert isinstance(node_cluster, Cluster)
    build = tmp_path_factory.mktemp("cluster-demo")
    copy_trained_model(build / "hub")
    command = [sys.executable, "-m", "dev.demo.cluster_run"]
    command += ["--cluster", str(node_cluster.folder), "--name", worker_name]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "DEMO_BUILD": str(build)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Installed(node_cluster, build, done.stdout, references())


@pytest.fixture(scope="session")
def node_hub(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that pods reach, with a tiny model; a model names its endpoint, since the operator's default is another."""
    folder = tmp_path_factory.mktemp("node-hub")
    write_model(folder / TINY)
    with Hub(folder, address=installed.cluster.host_address) as hub:
        yield hub


@pytest.fixture
def place(installed: Installed, new_node_namespace: MakeNamespace) -> Namespace:
    """A namespace of the test's own that enforces PSS restricted."""
    return Namespace(installed.cluster, new_node_namespace(RESTRICTED))


def model(hub: Hub, name: str = "m", repo: str = TINY, **spec: Any) -> dict[str, Any]:
    """An SLMModel of a test's hub."""
    return _manifest("SLMModel", name, {"source": {"huggingFace": {"repo": repo, "endpoint": hub.endpoint}}, **spec})


def quant_job(*variants: str, name: str = "q", **spec: Any) -> dict[str, Any]:
    """A QuantJob that is quick: four short chunks, no benchmark."""
    quick = {"evaluation": {"chunks": 4, "contextSize": 64}, "benchmark": {"enabled": False}, "resources": LITTLE}
    return _manifest("QuantJob", name, {"modelRef": {"name": "m"}, "variants": list(variants), **quick, **spec})


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    """An InferenceService of that QuantJob's choice."""
    small = {"quantJobRef": {"name": "q"}, "contextSize": 256, "resources": LITTLE}
    return _manifest("InferenceService", name, {**small, **spec})


def _manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "slm.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def until(holds: Callable[[], object], otherwise: str, limit_seconds: float = 180, pause_seconds: float = 0.5) -> Any:
    """``backend.until`` with a cluster's patience: each look is a kubectl, and the node has two CPUs."""
    return backend.until(holds, otherwise, limit_seconds, pause_seconds)


def drain(cluster: Cluster) -> None:
    """Put every pod that the operator lets run out, as an administrator does; there is no node for any others."""
    arguments = ("--pod-selector=slm.dev/network", "--delete-emptydir-data", "--force", "--timeout=120s")
    cluster.kubectl("drain", node.NAME, *arguments)


@contextmanager
def uncordoned_afterwards(cluster: Cluster) -> Iterator[None]:
    """Whatever happens, pods may be scheduled again."""
    try:
        yield
    finally:
        cluster.kubectl("uncordon", node.NAME)
