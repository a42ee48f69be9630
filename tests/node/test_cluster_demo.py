"""`make cluster-demo` from end to end, on the cluster of the tests, and what it must leave there."""

import json
from collections import Counter
from typing import Any

import pytest
import yaml

from dev.demo import stage
from dev.demo.cluster_run import NAMESPACE, SYSTEM
from slm_operator.core.manifests.pod import TEMPORARY_FOLDER
from slm_operator.core.plan import ObjectKey
from tests.support.hub import Hub
from tests.support.installed import NODE_TESTS, Installed, Namespace
from tests.support.planning import succeed
from tests.support.real_steps import RealWorld, local_placement
from tests.support.trained import copy_trained_model

pytestmark = NODE_TESTS
STORE = "/store"
OURS = "slm.dev/network"
"""A label of every pod that the operator lets run."""


@pytest.fixture(scope="module")
def demo(installed: Installed) -> Namespace:
    place = Namespace(installed.cluster, NAMESPACE)
    place.wait_ready("InferenceService", "demo")  # Another test may have drained its node.
    return place


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> RealWorld:
    """The demo's manifests by the same planners, with steps that run here: no pod, no image, no API server.

    What is measured has no part in a digest, so nothing is measured.
    """
    folder = tmp_path_factory.mktemp("local")
    copy_trained_model(folder / "hub")
    with Hub(folder / "hub") as hub:
        world = RealWorld(placement=local_placement(folder / "store", hub.endpoint))
        for document in example_manifests():
            world.put(document)
        world.settle(lambda label: succeed(label) if label.startswith(("evaluate", "report")) else None)
    return world


def example_manifests() -> list[dict[str, Any]]:
    """examples/demo in the default namespace, without the benchmark, whose figures no run repeats."""
    found = [yaml.safe_load(path.read_text()) for path in sorted((stage.ROOT / "examples/demo").glob("*.yaml"))]
    found = [each for each in found if each["kind"] != "Kustomization"]
    for each in found:
        each["metadata"]["namespace"] = "default"
        if each["kind"] == "QuantJob":
            each["spec"]["benchmark"] = {"enabled": False}
    return found


def test_the_result_has_what_a_local_demo_has(installed: Installed) -> None:
    result = installed.result
    assert set(result) == {
        *("model", "baseline", "variants", "selected", "selectionMessage", "tool", "question", "answer", "url"),
        *("secondsPerStage", "secondsPerStep"),
    }
    assert result["url"] == f"http://demo.{NAMESPACE}.svc:80"
    assert [row["type"] for row in result["variants"]] == ["Q8_0", "Q5_1", "Q4_K_M", "Q4_0"]
    for row in result["variants"]:
        assert row["sizeBytes"] == row["forecastBytes"] > 0
        assert row["tokensPerSecond"] > 0
    for text in ("KL divergence", "Chosen:", "Model:", "result.json"):
        assert text in installed.output


def test_the_same_inputs_have_the_same_digests_as_without_a_cluster(installed: Installed, local: RealWorld) -> None:
    result = installed.result
    model, job = (local.objects[ObjectKey(kind, "default", "demo")]["status"] for kind in ("SLMModel", "QuantJob"))
    assert {name: result["model"][name] for name in ("revision", "digest", "parameters")} == {
        name: model[name] for name in ("revision", "digest", "parameters")
    }
    names = ("type", "digest", "blob", "sizeBytes")
    assert [[row[name] for name in names] for row in result["variants"]] == [
        [row[name] for name in names] for row in job["variants"]
    ]
    assert result["baseline"]["digest"] == job["baseline"]["digest"]


def test_inside_and_outside_the_answer_is_the_same(installed: Installed, demo: Namespace) -> None:
    assert demo
    inside = installed.demo.ask_inside()
    with installed.demo.forwarded() as address:
        outside = stage.ask(address)
    assert inside == outside == installed.result["answer"]
    assert inside


def test_every_pod_of_ours_was_admitted_where_restricted_is_enforced(demo: Namespace) -> None:
    labels = json.loads(demo.access.kubectl("get", "namespace", demo.name, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    refused = [each["message"] for each in demo.list("events") if each["reason"] in {"FailedCreate", "Refused"}]
    assert refused == []
    steps = {pod["metadata"]["labels"]["slm.dev/step"] for pod in demo.list("pods", "-l", f"{OURS}!=serve,{OURS}")}
    assert steps >= {"resolve", "acquire", "convert", "quantize-Q4_0", "evaluate-Q4_0", "benchmark-Q4_0", "report"}


def test_no_pod_of_ours_has_a_token_or_a_writable_root(demo: Namespace) -> None:
    pods = demo.list("pods", "-l", OURS)
    assert pods
    for pod in pods:
        spec, name = pod["spec"], pod["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False, name
        assert not [each for each in spec["volumes"] if "projected" in each or "secret" in each], name
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            paths = [each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")]
            assert set(paths) <= {TEMPORARY_FOLDER, STORE}, name


def test_an_engine_cannot_write_anywhere_but_into_its_temporary_folder(demo: Namespace) -> None:
    (engine,) = demo.list("pods", "-l", f"{OURS}=serve")
    inside = ("exec", engine["metadata"]["name"], "--", "sh", "-c")
    script = (
        "for p in / /store /usr; do touch $p/x 2>/dev/null && echo wrote $p; done; touch /tmp/x && rm /tmp/x && id -u"
    )
    assert demo.kubectl(*inside, script) == "65532\n"
    assert demo.kubectl(*inside, "ls /var/run/secrets 2>/dev/null | wc -l") == "0\n"


def test_the_pods_of_operator_and_gateway_are_restricted_too(installed: Installed) -> None:
    system = Namespace(installed.cluster, SYSTEM)
    pods = [pod for pod in system.list("pods") if pod["metadata"]["name"].startswith("slm-operator-")]
    parts = Counter(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods)
    assert parts == {"operator": 2, "gateway": 2}
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert sum(each["restartCount"] for each in pod["status"]["containerStatuses"]) == 0
