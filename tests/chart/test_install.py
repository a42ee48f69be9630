"""The chart on a real API server: install, upgrade, uninstall, and what stays."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.build import tool
from dev.cluster.cluster import Cluster
from dev.rendering import CHART, NAMESPACE, RELEASE, ROOT, read_cases, render
from tests.chart.installing import Site, refusal
from tests.support.foreign_crds import foreign_crds
from tests.support.openapi import write_schemas

MODEL = yaml.safe_load((ROOT / "examples/gitops/models/model.yaml").read_text())
CRDS = {f"customresourcedefinition.apiextensions.k8s.io/{path.stem}.slm.dev" for path in (ROOT / "crds").glob("*.yaml")}
PODS = 4
"""Two of the operator, two of the gateway."""
OWN = "deploy,sa,svc,pdb,networkpolicy,role,rolebinding"


@pytest.fixture
def released(site: Site) -> Iterator[Site]:
    """A site where the test may install, empty again afterwards."""
    yield site
    if RELEASE in site.helm("list", "--short"):
        site.helm("uninstall", RELEASE)
    if left := site.names("crd") & CRDS:
        site.cluster.kubectl("wait", "--for=condition=Established", *sorted(left), "--timeout=60s")
        site.cluster.kubectl("delete", "slm-all", "--all", "-A")
    site.cluster.kubectl("delete", "crd", *(name.split("/")[1] for name in CRDS), "--ignore-not-found")


def condition(site: Site, crd: str) -> dict[str, str]:
    status = site.get("crd", crd).get("status", {})
    return {each["type"]: each["status"] for each in status.get("conditions", [])}


def wait_for_kinds(site: Site) -> None:
    site.cluster.kubectl("wait", "--for=condition=Established", *sorted(CRDS), "--timeout=60s")


def test_an_installation_makes_restricted_pods_and_serves_the_kinds(released: Site) -> None:
    said = released.install({})
    assert "STATUS: deployed" in said
    wait_for_kinds(released)
    # The namespace enforces PSS restricted: a pod that is made was admitted.
    released.wait_until(lambda: len(released.names("pods", "-n", NAMESPACE)) == PODS, "the pods are made")
    released.apply({**MODEL, "metadata": {"name": "m", "namespace": NAMESPACE}})
    assert released.names("slm-all", "-n", NAMESPACE) == {"slmmodel.slm.dev/m"}


def test_an_upgrade_brings_crds_and_values_up_to_date_and_keeps_objects(released: Site, tmp_path: Path) -> None:
    before = tmp_path / "slm-operator"
    shutil.copytree(CHART, before)
    template = before / "templates/crds/slmmodels.yaml"
    column = "        - name: License\n          type: string\n          jsonPath: .status.license\n"
    assert column in template.read_text()
    template.write_text(template.read_text().replace(column, ""))
    released.install({"replicas": 1}, before)
    wait_for_kinds(released)
    released.apply({**MODEL, "metadata": {"name": "kept", "namespace": NAMESPACE}})
    uid = released.get("slmmodel", "kept")["metadata"]["uid"]
    assert "License" not in columns(released)
    released.upgrade({"replicas": 3})
    assert "License" in columns(released)
    assert released.get("deployment", RELEASE)["spec"]["replicas"] == 3
    assert released.get("slmmodel", "kept")["metadata"]["uid"] == uid
    released.helm("rollback", RELEASE, "1")
    assert released.get("deployment", RELEASE)["spec"]["replicas"] == 1


def columns(site: Site) -> list[str]:
    (version,) = site.get("crd", "slmmodels.slm.dev")["spec"]["versions"]
    return [column["name"] for column in version["additionalPrinterColumns"]]


def test_an_uninstalled_release_leaves_kinds_and_objects_and_can_be_installed_again(released: Site) -> None:
    released.install({})
    wait_for_kinds(released)
    released.apply({**MODEL, "metadata": {"name": "kept", "namespace": NAMESPACE}})
    said = released.helm("uninstall", RELEASE)
    assert "These resources were kept due to the resource policy" in said
    left = released.names(OWN, "-n", NAMESPACE) | released.names("clusterrole,clusterrolebinding")
    assert [name for name in left if RELEASE in name] == []
    assert released.names("crd") >= CRDS
    assert released.names("slmmodel", "-n", NAMESPACE) == {"slmmodel.slm.dev/kept"}
    assert "STATUS: deployed" in released.install({})


def test_kinds_that_another_release_left_are_taken_over_only_when_asked(released: Site) -> None:
    released.install({})
    released.helm("uninstall", RELEASE)
    arguments = ("install", "other", str(CHART))
    assert "invalid ownership metadata" in refusal(lambda: released.helm(*arguments))
    assert "STATUS: deployed" in released.helm(*arguments, "--take-ownership")
    released.helm("uninstall", "other")


def test_without_keep_the_kinds_go_with_the_release(released: Site) -> None:
    released.install({"crds": {"keep": False}})
    wait_for_kinds(released)
    released.helm("uninstall", RELEASE)
    released.wait_until(lambda: not released.names("crd") & CRDS, "the CRDs are gone")


def test_the_kustomization_is_accepted_and_makes_the_same_pods(released: Site) -> None:
    folder = str(ROOT / "deploy/kustomize")
    released.cluster.kubectl("apply", "-k", folder)
    try:
        released.wait_until(lambda: len(released.names("pods", "-n", NAMESPACE)) == PODS, "the pods are made")
        assert released.cluster.kubectl("diff", "-k", folder) == ""
    finally:
        objects = [each for each in render({}) if each["kind"] != "CustomResourceDefinition"]
        released.cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(objects))
        released.wait_until(lambda: not released.names("pods", "-n", NAMESPACE), "the pods are gone")


@pytest.fixture(scope="module")
def schemas(plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """kubeconform's place of schemas: everything that this API server and its CRDs know."""
    for path in foreign_crds():
        plane.kubectl("apply", "--server-side", "-f", str(path))
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    location = write_schemas(plane, tmp_path_factory.mktemp("schemas"))
    plane.kubectl("delete", "-f", str(ROOT / "crds"))
    return location


def conform(schemas: str, documents: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    command = [str(tool("kubeconform")), "-strict", "-summary", "-schema-location", schemas, "-"]
    return subprocess.run(command, input=yaml.safe_dump_all(documents), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", read_cases())
def test_every_rendered_object_fits_the_servers_schemas(schemas: str, case: str) -> None:
    done = conform(schemas, render(read_cases()[case]))
    assert done.returncode == 0, done.stdout
    assert "Errors: 0, Skipped: 0" in done.stdout


def test_a_field_that_the_server_does_not_know_does_not_fit(schemas: str) -> None:
    deployment = next(each for each in render({}) if each["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    done = conform(schemas, [deployment])
    assert done.returncode == 1
    assert "additional properties 'imagePullPolice' not allowed" in done.stdout


@pytest.mark.parametrize("case", read_cases())
def test_the_api_server_accepts_every_rendered_object(released: Site, schemas: str, case: str) -> None:
    del schemas  # Its ServiceMonitor is of a kind that was installed with it.
    for name in ("team-a", "team-b"):
        released.make_namespace(name)
    text = yaml.safe_dump_all(render(read_cases()[case]))
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    said = released.cluster.kubectl(*arguments, stdin=text)
    assert "pod/" in said
    assert len(said.splitlines()) == len(list(yaml.safe_load_all(text)))


def answer_as(code: int, body: str) -> http.server.HTTPServer:
    """An operator's /readyz on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def check(site: Site, folder: Path, ready: http.server.HTTPServer) -> subprocess.CompletedProcess[str]:
    """The chart's own check, as its pod runs it, with the account's token and authority."""
    (folder / "token").write_text(site.cluster.kubectl("create", "token", "default", "-n", NAMESPACE))
    shutil.copyfile(site.cluster.site.certificates / "ca.crt", folder / "ca.crt")
    (pod,) = [each for each in render({}) if each["kind"] == "Pod"]
    script = pod["spec"]["containers"][0]["command"][2]
    command = [sys.executable, "-c", script, f"http://127.0.0.1:{ready.server_port}/readyz", site.cluster.site.url]
    environment = {**os.environ, "SLM_CHECK_ACCOUNT": str(folder), "SLM_CHECK_SECONDS": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    ready.shutdown()
    ready.server_close()
    return done


def test_the_check_says_what_is_wrong_and_when_all_is_well(released: Site, tmp_path: Path) -> None:
    done = check(released, tmp_path, answer_as(200, "ok"))
    assert done.returncode == 1
    missing = "inferenceservices, quantjobs, slmmodels"
    assert done.stdout == f"the API server does not serve {missing}: install the CRDs (crds.install=true)\n"
    done = check(released, tmp_path, answer_as(503, "its caches are not filled yet"))
    assert done.returncode == 1
    assert "the operator is not ready" in done.stdout
    assert done.stdout.endswith("HTTP Error 503: Service Unavailable its caches are not filled yet\n")
    released.cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    wait_for_kinds(released)
    done = check(released, tmp_path, answer_as(200, "ok"))
    assert (done.stdout, done.returncode) == ("The operator is ready, and the API server serves the three kinds.\n", 0)
