"""The GitOps examples against the schemas of those who read them, on a real API server."""

from typing import Any

import pytest
import yaml

from dev.cluster.build import BuildFailed
from dev.cluster.cluster import Cluster
from dev.rendering import ROOT, render
from tests.chart.conftest import skip_or_raise
from tests.chart.installing import refusal
from tests.support.foreign_crds import foreign_crds

EXAMPLES = ROOT / "examples" / "gitops"
NAMESPACES = ("argocd", "flux-system", "models", "slm-system")
MANIFESTS = [
    (path, document)
    for folder in ("argocd", "flux")
    for path in sorted((EXAMPLES / folder).glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.fixture(scope="module")
def tools(plane: Cluster) -> Cluster:
    """A cluster that knows the kinds of Argo CD and Flux, and ours."""
    try:
        paths = foreign_crds()
    except BuildFailed as problem:
        skip_or_raise(problem)
    for path in (*paths, ROOT / "crds"):
        plane.kubectl("apply", "--server-side", "-f", str(path))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    for name in NAMESPACES:
        plane.kubectl("create", "namespace", name)
    return plane


def dry_run(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    return cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", *arguments, stdin=stdin)


@pytest.mark.parametrize("folder", ["argocd", "flux"])
def test_each_tool_accepts_its_manifests(tools: Cluster, folder: str) -> None:
    said = dry_run(tools, "-k", str(EXAMPLES / folder))
    ours = [document for path, document in MANIFESTS if path.parent.name == folder]
    assert len(said.splitlines()) == len(ours)


def test_a_misspelt_field_is_refused(tools: Cluster) -> None:
    (application,) = yaml.safe_load_all((EXAMPLES / "argocd" / "models.yaml").read_text())
    application["spec"]["syncPolicy"]["automatic"] = {}
    said = refusal(lambda: dry_run(tools, "-f", "-", stdin=yaml.safe_dump(application)))
    assert "spec.syncPolicy.automatic: field not declared in schema" in said


def test_the_three_manifests_are_accepted_in_any_namespace(tools: Cluster) -> None:
    said = dry_run(tools, "-n", "models", "-k", str(EXAMPLES / "models"))
    assert sorted(line.split("/")[0] for line in said.splitlines()) == [
        "inferenceservice.slm.dev",
        "quantjob.slm.dev",
        "slmmodel.slm.dev",
    ]


def find(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [each for _, each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def test_both_tools_give_values_that_the_chart_takes() -> None:
    argo = find("Application", "slm-operator")["spec"]["source"]
    flux = find("HelmRelease", "slm-operator")["spec"]
    assert argo["helm"]["valuesObject"] == flux["values"]
    assert any(each["kind"] == "Deployment" for each in render(flux["values"]))
    assert (ROOT / argo["path"] / "Chart.yaml").is_file()
    assert flux["chart"]["spec"]["chart"] == argo["path"]


def test_every_path_and_checked_object_exists() -> None:
    for path in (
        find("Application", "models")["spec"]["source"]["path"],
        find("Kustomization", "models")["spec"]["path"],
    ):
        assert (ROOT / path / "kustomization.yaml").is_file()
    (checked,) = find("Kustomization", "models")["spec"]["healthChecks"]
    service = yaml.safe_load((EXAMPLES / "models" / "service.yaml").read_text())
    assert (checked["kind"], checked["name"]) == (service["kind"], service["metadata"]["name"])


def test_argo_cds_health_check_is_a_patch_of_its_config_map(tools: Cluster) -> None:
    patch = ROOT / "deploy" / "argocd" / "argocd-cm.yaml"
    tools.kubectl("create", "configmap", "argocd-cm", "-n", "argocd", "--from-literal=url=https://argo.example.com")
    tools.kubectl("patch", "configmap", "argocd-cm", "-n", "argocd", "--patch-file", str(patch))
    keys = yaml.safe_load(tools.kubectl("get", "configmap", "argocd-cm", "-n", "argocd", "-o", "yaml"))["data"]
    assert set(keys) == {"url", *yaml.safe_load(patch.read_text())["data"]}
