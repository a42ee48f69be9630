"""The operator itself with nothing but the rights of the chart: its account's token, its Deployment's settings."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.rendering import NAMESPACE, RELEASE, ROOT, Manifest, render
from tests.chart.installing import Site, environment_of
from tests.support.operator_process import OperatorProcess, free_port

MODEL = yaml.safe_load((ROOT / "examples/gitops/models/model.yaml").read_text())
TEAMS = ("team-a", "team-b")
STORE = {"storageClass": "on-demand"}
"""A class, so that a claim whose volume nobody makes here counts as one that waits for its first pod."""


@contextmanager
def running(site: Site, folder: Path, values: Mapping[str, Any]) -> Iterator[OperatorProcess]:
    """The operator as a pod of this release would run."""
    kubeconfig = folder / "account.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(account_config(site)))
    own = {"SLM_OPERATOR_NAMESPACE": NAMESPACE, "SLM_LISTEN_PORT": str(port := free_port()), "SLM_LOG_FORMAT": "json"}
    operator = OperatorProcess(folder, kubeconfig, port, **{**environment_of(render(values)), **own})
    operator.start()
    try:
        operator.wait_ready(60)
        yield operator
    finally:
        assert operator.stop() == 0


def account_config(site: Site) -> Manifest:
    """The administrator's way to the cluster, with the account's token instead of the certificate."""
    config: Manifest = yaml.safe_load(site.cluster.kubeconfig.read_text())
    token = site.cluster.kubectl("create", "token", RELEASE, "-n", NAMESPACE)
    return {**config, "users": [{"name": config["users"][0]["name"], "user": {"token": token}}]}


@pytest.fixture(scope="module")
def installed(site: Site) -> Callable[[Mapping[str, Any]], Site]:
    """Installs or changes the release."""
    for name in TEAMS:
        site.make_namespace(name)

    def install(values: Mapping[str, Any]) -> Site:
        site.upgrade(values)
        site.cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        return site

    return install


def put_model(site: Site, namespace: str) -> None:
    site.apply({**MODEL, "metadata": {"name": "m", "namespace": namespace}})


def has_started_work(site: Site, namespace: str) -> bool:
    """Whether the first Job's pod is made: without a node it waits, and the model says so."""
    conditions = site.get("slmmodel", "m", "-n", namespace)["status"].get("conditions", ())
    return any((each["type"], each["reason"]) == ("Ready", "PodWaiting") for each in conditions)


def refused_requests(operator: OperatorProcess) -> list[str]:
    return [labels for labels in operator.metrics("slm_operator_api_requests_total") if 'code="403"' in labels]


def complaints(operator: OperatorProcess) -> list[dict[str, object]]:
    """What it had to say, but for an API server that makes room for new kinds and asks for a second of patience."""
    lines = [line for line in operator.lines() if "storage is (re)initializing" not in str(line)]
    return [line for line in lines if line["level"] in {"WARNING", "ERROR"} or "orbidden" in str(line)]


@pytest.mark.parametrize(
    "values",
    [{"store": STORE}, {"store": STORE, "watchNamespaces": list(TEAMS)}],
    ids=["everywhere", "in two namespaces"],
)
def test_the_operator_works_with_the_rights_of_its_release(
    installed: Callable[[Mapping[str, Any]], Site], values: dict[str, Any], tmp_path: Path
) -> None:
    site = installed(values)
    outside = "default"
    for namespace in (*TEAMS, outside):
        site.cluster.kubectl("delete", "slmmodel,job", "--all", "-n", namespace)
        put_model(site, namespace)
    with running(site, tmp_path, values) as operator:
        for namespace in TEAMS if "watchNamespaces" in values else (*TEAMS, outside):
            site.wait_until(partial(has_started_work, site, namespace), f"work begins in {namespace}")
            assert len(site.names("jobs", "-n", namespace)) == 1
        if "watchNamespaces" in values:
            assert site.get("slmmodel", "m", "-n", outside)["status"] == {"observedGeneration": -1}
        assert refused_requests(operator) == []
        assert complaints(operator) == []


def test_with_less_than_these_rights_the_operator_says_which_one_it_lacks(
    installed: Callable[[Mapping[str, Any]], Site], tmp_path: Path
) -> None:
    site = installed({"store": STORE})
    site.cluster.kubectl("delete", "slmmodel,job", "--all", "-n", "default")
    (role,) = [each for each in render({}) if (each["kind"], each["metadata"]["name"]) == ("ClusterRole", RELEASE)]
    (jobs,) = [rule for rule in role["rules"] if rule["resources"] == ["jobs"]]
    jobs["verbs"] = ["get", "list", "watch"]
    site.cluster.kubectl("replace", "-f", "-", stdin=yaml.safe_dump(role))
    put_model(site, "default")
    with running(site, tmp_path, {"store": STORE}) as operator:
        site.wait_until(lambda: bool(refused_requests(operator)), "a request is refused")
        site.wait_until(lambda: bool(complaints(operator)), "the refusal is told")
        assert 'resource "jobs" in API group "batch"' in str(complaints(operator)[0])
