"""The release on a real node: its check, its end, and an upgrade from the commit before while a service answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.build import tool
from dev.demo.cluster_run import CALLERS, RELEASE, RESTRICTED, SYSTEM
from dev.demo.cluster_run import NAMESPACE as DEMO
from tests.node.asking import Asker, GatewayAsker
from tests.support.clusters import MakeNamespace
from tests.support.hub import Hub
from tests.support.installed import NODE_TESTS, ROOT, Installed, Namespace, model, quant_job, service, until

pytestmark = NODE_TESTS
BUILD = """
import json
from dev.images.build import build_images, describe
print(json.dumps({describe(path).reference: str(path) for path in build_images().values()}))
"""


@dataclass(frozen=True)
class Version:
    """A tree of this project with its images."""

    tree: Path
    archives: Mapping[str, str]
    """Image reference to the archive that holds it."""

    @property
    def values(self) -> dict[str, Any]:
        """Where the chart finds its three images."""
        names = {"slm-operator": "operator", "slm-pipelines": "pipelines", "llama-cpp": "llamaCpp"}
        pairs = [reference.rsplit(":", 1) for reference in self.archives]
        images = {names[name.rpartition("/")[2]]: {"repository": name, "tag": tag} for name, tag in pairs}
        return {"images": images}


def build_version(tree: Path) -> Version:
    """Build the images of a tree; those whose inputs are as before are in the cache already."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Version(tree, json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def before(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Version]:
    """The commit before this one, on the node."""
    tree = tmp_path_factory.mktemp("before") / "tree"
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run([*git, "add", "--detach", str(tree), "HEAD~1"], capture_output=True, text=True, check=False)
    if added.returncode:
        pytest.skip(f"this is no clone with the commit before: {added.stderr.strip()}")
    try:
        version = build_version(tree)
        for archive in version.archives.values():
            installed.cluster.load_image(Path(archive))
        yield version
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def now(installed: Installed) -> Version:
    """This tree; the demo has loaded its images."""
    assert installed.images
    return build_version(ROOT)


def helm(installed: Installed, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
    """Output of helm; the assertion that fails holds what it said."""
    command = [str(tool("helm")), *arguments, "--namespace", SYSTEM]
    command += ["--values", "-"] if values is not None else []
    environment = {**os.environ, "KUBECONFIG": str(installed.cluster.kubeconfig)}
    done = subprocess.run(
        command, input=json.dumps(values), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def release(installed: Installed, verb: str, version: Version, hub: Hub) -> str:
    """Install or upgrade to a version, and wait until its pods are ready."""
    values = version.values | {"hub": {"endpoint": hub.endpoint, "allowPrivateHosts": [hub.address]}}
    chart = str(version.tree / "charts" / "slm-operator")
    return helm(installed, verb, RELEASE, chart, "--wait", "--timeout", "5m", values=values)


def engines(place: Namespace) -> dict[str, tuple[str, int]]:
    """Engine pods by name: their image, and how often they were started again."""
    return {
        pod["metadata"]["name"]: (
            pod["spec"]["containers"][0]["image"],
            pod["status"]["containerStatuses"][0]["restartCount"],
        )
        for pod in place.list("pods", "-l", "slm.dev/network=serve")
    }


def test_the_release_passes_its_own_check(installed: Installed) -> None:
    said = helm(installed, "test", RELEASE, "--logs")
    assert "Phase:          Succeeded" in said
    assert "The operator is ready, and the API server serves the three kinds." in said


def test_uninstalling_leaves_what_is_the_users_and_it_goes_on_answering(
    installed: Installed, now: Version, node_hub: Hub
) -> None:
    demo, cluster = Namespace(installed.cluster, DEMO), installed.cluster
    demo.wait_ready("InferenceService", "demo")  # Another test may have drained its node.
    before, claims = engines(demo), demo.kubectl("get", "pvc", "-o", "name")
    assert "These resources were kept" in helm(installed, "uninstall", RELEASE, "--wait")
    try:
        assert cluster.kubectl("get", "slm-all", "-n", DEMO, "-o", "name").split() == [
            *("inferenceservice.slm.dev/demo", "quantjob.slm.dev/demo", "slmmodel.slm.dev/demo")
        ]
        assert demo.kubectl("get", "pvc", "-o", "name") == claims == "persistentvolumeclaim/slm-store\n"
        assert installed.demo.ask_inside("http://demo") == installed.result["answer"]
        assert engines(demo) == before
        left = cluster.kubectl("get", "deploy,sa,svc,pdb,networkpolicy,role,rolebinding", "-n", SYSTEM, "-o", "name")
        left += cluster.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name")
        assert [name for name in left.split() if RELEASE in name] == []
        assert "lease.coordination.k8s.io/slm-operator" in cluster.kubectl("get", "lease", "-n", SYSTEM, "-o", "name")
    finally:
        release(installed, "install", now, node_hub)
    assert demo.ready("InferenceService", "demo")[:2] == ("True", "Ready")
    assert engines(demo) == before


def test_an_upgrade_from_the_commit_before_leaves_a_service_answering(
    installed: Installed, before: Version, now: Version, node_hub: Hub, new_node_namespace: MakeNamespace
) -> None:
    helm(installed, "uninstall", RELEASE, "--wait")
    try:
        release(installed, "install", before, node_hub)
        place = Namespace(installed.cluster, new_node_namespace(RESTRICTED))
        place.apply(*CALLERS, model(node_hub), quant_job("Q8_0"), service())
        served = place.wait_ready("InferenceService", "s")["status"]["digest"]
        there = engines(place)
        image = installed.images["slm-pipelines"]
        with Asker(place, "s", image) as asker, GatewayAsker(place, "s", image) as caller:
            release(installed, "upgrade", now, node_hub)
            for each in (asker, caller):
                each.wait_for(5)
            until(lambda: place.ready("InferenceService", "s")[0] == "True", "it is Ready again")
            for each in (asker, caller):
                each.wait_for(5)
        assert asker.failures == caller.failures == []
        found = place.get("InferenceService", "s")
        assert found["status"]["digest"] == served
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        engine = next(name for name in now.archives if "llama-cpp" in name)
        if {image for image, _ in there.values()} == {engine}:
            assert engines(place) == there, "an engine whose image and arguments are the same was replaced"
        place.apply(quant_job("Q4_0"))
        place.wait_ready("QuantJob", "q")
    finally:
        verb = "upgrade" if RELEASE in helm(installed, "list", "--short").split() else "install"
        release(installed, verb, now, node_hub)
