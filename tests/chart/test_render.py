"""What Helm makes of the chart, without any cluster."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import rendering
from dev.cluster.build import kubernetes
from dev.cluster.versions import chosen_version
from dev.generate import compare_files
from dev.rendering import CHART, NAMESPACE, RELEASE, ROOT, Manifest, helm, render
from slm_operator.adapters.metrics import Metrics
from slm_operator.core.manifests.network import build_callers
from slm_operator.core.placement import ClusterPods
from slm_operator.gateway.metrics import GatewayMetrics
from slm_operator.settings import GatewaySettings, OperatorSettings
from tests.chart.installing import environment_of, refusal

CASES = rendering.read_cases()
every_case = pytest.mark.parametrize("case", CASES)


def of_kind(documents: list[Manifest], kind: str) -> list[Manifest]:
    return [document for document in documents if document["kind"] == kind]


def pod_templates(documents: list[Manifest]) -> list[Manifest]:
    return [
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in {"Pod", "Deployment"}
    ]


@every_case
def test_helm_lint_finds_nothing(case: str) -> None:
    said = helm("lint", str(CHART), "--strict", "--values", "-", stdin=yaml.safe_dump(CASES[case]))
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_rendered_files_are_up_to_date() -> None:
    assert compare_files(rendering.read_all(), rendering.render_all()) == "", "run make chart"


def test_a_stale_file_is_shown_and_removed_by_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (rendering.GOLDEN, rendering.KUSTOMIZE, "crds"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(rendering, "ROOT", tmp_path)
    stale, rights = tmp_path / rendering.KUSTOMIZE / "secret.yaml", tmp_path / rendering.GOLDEN / "rbac.txt"
    stale.write_text("kind: Secret\n")
    rights.write_text(rights.read_text().replace("core/pods   ", "core/secrets"))
    assert rendering.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "-  core/secrets" in said
    assert "--- deploy/kustomize/secret.yaml" in said
    assert said.endswith("run make chart\n")
    assert rendering.main([]) == 0
    assert not stale.exists()
    assert rendering.main(["--check"]) == 0


@every_case
def test_no_rule_has_a_wildcard_or_deletes_claims_and_only_the_gateways_lists_secrets(case: str) -> None:
    for role in render(CASES[case]):
        if role["kind"] not in {"Role", "ClusterRole"}:
            continue
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role["metadata"]["name"]
            secrets = [each for each in rule["resources"] if each.startswith("secrets")]
            keys = (role["kind"], role["metadata"]["name"].endswith("-gateway-keys")) == ("Role", True)
            assert not secrets or (keys and rule["verbs"] == ["list"] and role["metadata"]["namespace"] == NAMESPACE)
            if "persistentvolumeclaims" in rule["resources"]:
                assert not {"delete", "deletecollection", "update"} & set(rule["verbs"])


@every_case
def test_every_pod_is_restricted_and_has_requests_and_limits(case: str) -> None:
    pods = pod_templates(render(CASES[case]))
    assert len(pods) == (2 if case == "minimal" else 3)
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_the_crds_are_those_of_the_repository_and_stay_unless_told_otherwise() -> None:
    ours = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")}
    for values, annotations in (({}, {"helm.sh/resource-policy": "keep"}), ({"crds": {"keep": False}}, None)):
        found = of_kind(render(values), "CustomResourceDefinition")
        assert {each["metadata"]["name"]: each["spec"] for each in found} == {
            each["metadata"]["name"]: each["spec"] for each in ours.values()
        }
        assert [each["metadata"].get("annotations") for each in found] == [annotations] * 3
    assert of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition") == []


def test_in_namespaced_mode_nothing_cluster_wide_is_left_but_what_cannot_be_namespaced() -> None:
    wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"}
    kept = [each for each in render({"watchNamespaces": ["team-a"]}) if each["kind"] in wide]
    assert {(each["kind"], each["metadata"]["name"]) for each in kept} == {
        ("ClusterRole", "slm-operator-view"),
        ("ClusterRole", "slm-operator-edit"),
        # Who calls is asked of the whole cluster or not at all.
        *((kind, "slm-operator-gateway-reviews") for kind in ("ClusterRole", "ClusterRoleBinding")),
        *((kind, "slm-operator-demand") for kind in ("ClusterRole", "ClusterRoleBinding")),
        *(("CustomResourceDefinition", f"{name}.slm.dev") for name in ("slmmodels", "quantjobs", "inferenceservices")),
    }
    assert [each for each in render(CASES["namespaced"]) if each["kind"] in wide] == []
    placed = {(each["kind"], each["metadata"]["namespace"]) for each in render(CASES["namespaced"])}
    assert {place for kind, place in placed if kind == "RoleBinding"} == {"team-a", "team-b", NAMESPACE}


DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({}, "slm-operator:0.1.0"),
        ({"registry": "r.example.com"}, "r.example.com/slm-operator:0.1.0"),
        ({"registry": "r", "operator": {"registry": "own"}}, "own/slm-operator:0.1.0"),
        ({"operator": {"repository": "a/b", "tag": "7"}}, "a/b:7"),
        ({"operator": {"tag": "7", "digest": DIGEST}}, f"slm-operator@{DIGEST}"),
    ],
)
def test_images_are_named_by_registry_repository_tag_and_digest(images: dict[str, Any], expected: str) -> None:
    for deployment in of_kind(render({"images": images}), "Deployment"):  # The gateway is a program of the same image.
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 3}, ["additional properties 'replica' not allowed"]),
        ({"images": {"operator": {"tga": "1"}}}, ["at '/images/operator'", "additional properties 'tga' not allowed"]),
        ({"metrics": {"serviceMonitor": {"enabled": "yes"}}}, ["at '/metrics/serviceMonitor/enabled'", "want boolean"]),
        ({"store": {"accessMode": "ReadOnlyMany"}}, ["at '/store/accessMode'", "'ReadWriteOnce', 'ReadWriteMany'"]),
        ({"store": {"size": "big"}}, ["at '/store/size'", "'big' does not match pattern"]),
        ({"images": {"operator": {"digest": "sha256:1"}}}, ["at '/images/operator/digest'", "does not match pattern"]),
        ({"watchNamespaces": ["Team_A"]}, ["at '/watchNamespaces/0'", "'Team_A' does not match pattern"]),
        ({"watchNamespaces": ["a", "a"]}, ["at '/watchNamespaces'", "items at 0 and 1 are equal"]),
        ({"imagePullSecrets": ["regcred"]}, ["at '/imagePullSecrets/0'", "got string, want object"]),
        ({"replicas": -1}, ["at '/replicas'", "minimum: got -1, want 0"]),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, ["at '/podLabels/app.kubernetes.io~1name'"]),
        ({"gateway": {"tls": {"secret": "x"}}}, ["at '/gateway/tls'", "additional properties 'secret' not allowed"]),
        ({"gateway": {"service": {"type": "External"}}}, ["at '/gateway/service/type'", "'ClusterIP', 'NodePort'"]),
        ({"networkPolicy": {"engineCallers": ["Team_A"]}}, ["at '/networkPolicy/engineCallers/0'"]),
        ({"log": {"level": "loud"}}, ["at '/log/level'", "'debug', 'info', 'warning', 'error'"]),
    ],
)
def test_unknown_keys_and_wrong_values_are_refused_naming_the_place(values: dict[str, Any], words: list[str]) -> None:
    said = refusal(lambda: render(values))
    assert [word for word in words if word not in said] == [], said


def test_two_releases_differ_in_every_name_that_is_cluster_wide() -> None:
    wide = {"ClusterRole", "ClusterRoleBinding"}
    names = [{each["metadata"]["name"] for each in render({}, name) if each["kind"] in wide} for name in ("a", "b")]
    ends = ("", "-view", "-edit", "-demand", "-gateway", "-gateway-reviews")
    assert names == [{f"{name}-slm-operator{end}" for end in ends} for name in ("a", "b")]


def test_selectors_find_the_pods_of_their_own_part_and_no_others() -> None:
    documents = render({})
    (check,) = of_kind(documents, "Pod")
    deployments = {each["metadata"]["name"]: each for each in of_kind(documents, "Deployment")}
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in deployments.items()}
    assert set(pods) == {RELEASE, f"{RELEASE}-gateway"}
    services = {each["metadata"]["name"]: each["spec"]["selector"] for each in of_kind(documents, "Service")}
    parts = {RELEASE: RELEASE, f"{RELEASE}-demand": RELEASE, f"{RELEASE}-gateway": f"{RELEASE}-gateway"}
    assert set(services) == set(parts)
    for service, selector in services.items():
        assert deployments[parts[service]]["spec"]["selector"]["matchLabels"] == selector
        assert [name for name, labels in pods.items() if selector.items() <= labels.items()] == [parts[service]]
        assert not selector.items() <= check["metadata"]["labels"].items()


def test_the_gateways_pods_are_those_that_the_operator_lets_into_engines() -> None:
    documents = render({})
    environment = environment_of(documents)
    namespace, _, account = environment["SLM_GATEWAY_ACCOUNT"].partition("/")
    (gateway,) = [each for each in of_kind(documents, "Deployment") if each["metadata"]["name"].endswith("-gateway")]
    template = gateway["spec"]["template"]
    assert (gateway["metadata"]["namespace"], template["spec"]["serviceAccountName"]) == (namespace, account)
    (peer,) = build_callers(ClusterPods(gateway_namespace=namespace, engine_callers=("gateway",)))
    assert peer["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert environment["SLM_ENGINE_CALLERS"] == "gateway"
    nobody_else: dict[str, Any] = {"networkPolicy": {"engineCallers": []}}
    assert environment_of(render(nobody_else))["SLM_ENGINE_CALLERS"] == "gateway"
    without: dict[str, Any] = {"gateway": {"enabled": False}}
    assert environment_of(render(without))["SLM_ENGINE_CALLERS"] == "*"
    assert environment_of(render(nobody_else | without))["SLM_ENGINE_CALLERS"] == "*"


def test_notes_say_what_is_reconciled_and_what_is_missing() -> None:
    arguments = ("install", RELEASE, str(CHART), "--dry-run=client", "--namespace", NAMESPACE, "--values", "-")
    notes = helm(*arguments, stdin="{}").partition("NOTES:\n")[2]
    assert "reconciles all namespaces." in notes
    values = {"watchNamespaces": ["a", "b"], "crds": {"install": False}, "rbac": {"create": False}}
    notes = helm(*arguments, stdin=yaml.safe_dump(values)).partition("NOTES:\n")[2]
    for words in ("reconciles the namespaces a, b.", "keep them at the version", "bind ServiceAccount slm-operator"):
        assert words in notes
    plain = f"http://{RELEASE}-gateway.{NAMESPACE}.svc/v1,"
    secret: dict[str, Any] = {"tls": {"secretName": "tls"}}
    addresses = {
        plain: {},
        plain.replace("http", "https").replace(".svc", ".svc:80"): secret,
        plain.replace("http", "https"): secret | {"service": {"port": 443}},
    }
    for address, gateway in addresses.items():
        assert address in helm(*arguments, stdin=yaml.safe_dump({"gateway": gateway}))


@pytest.mark.parametrize(
    ("name", "beginnings", "offered"),
    [
        ("slm-operator.json", ("slm_operator_",), lambda: Metrics().render()),
        ("slm-gateway.json", ("slm_gateway_", "gen_ai_"), lambda: used_gateway_metrics().render()),
    ],
)
def test_a_dashboard_reads_every_metric_of_its_part_and_no_other(
    name: str, beginnings: tuple[str, ...], offered: Callable[[], bytes]
) -> None:
    (config,) = of_kind(render(CASES["full"]), "ConfigMap")
    dashboard = json.loads(config["data"][name])
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    read = {name.removesuffix("_bucket") for name in re.findall(r"\b(?:slm|gen_ai_server|process)_\w+", queries)}
    known = set(re.findall(r"^# TYPE (\w+) ", offered().decode(), re.MULTILINE))
    assert {name for name in known if name.startswith(beginnings)} <= read <= known
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}


def used_gateway_metrics() -> GatewayMetrics:
    """A gateway's, with a service, so that all of them are there."""
    return GatewayMetrics(lambda: {"team/chat": (1, 1, 1)})


@every_case
def test_the_gateway_takes_the_settings_of_every_case(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, documents = CASES[case], render(CASES[case])
    if not values.get("gateway", {}).get("enabled", True):
        assert len(of_kind(documents, "Deployment")) == 1
        return
    for name, value in environment_of(documents, "gateway").items():
        monkeypatch.setenv(name, value)
    settings, chosen = GatewaySettings(), values.get("gateway", {})
    assert settings.watch_namespaces == tuple(values.get("watchNamespaces", ()))
    assert settings.gateway_audience == chosen.get("audience", "slm.dev")
    assert settings.gateway_drain_seconds == chosen.get("drainSeconds", 300)
    assert settings.gateway_token_review == bool(settings.demand_url) == chosen.get("tokenReview", True)
    assert (settings.gateway_tls_cert is not None) == ("tls" in chosen)


@every_case
def test_the_operator_takes_the_settings_of_every_case(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, environment = CASES[case], environment_of(render(CASES[case]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = OperatorSettings()
    assert settings.watch_namespaces == tuple(values.get("watchNamespaces", ()))
    assert settings.image_pull_secrets == tuple(each["name"] for each in values.get("imagePullSecrets", ()))
    assert settings.allow_private_hosts == tuple(values.get("hub", {}).get("allowPrivateHosts", ()))
    assert settings.store_size == values.get("store", {}).get("size", "100Gi")
    assert settings.log_format == values.get("log", {}).get("format", "json")


def kustomize(folder: Path) -> list[Manifest]:
    """The objects of a kustomization; no cluster is asked."""
    program = kubernetes(chosen_version())
    done = subprocess.run([program, "kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_the_overlay_of_the_docs_changes_the_image_and_adds_a_setting(tmp_path: Path) -> None:
    page = (ROOT / "docs/install.md").read_text()
    (overlay,) = re.findall(r"^```yaml\n(resources:.*?)^```", page, re.MULTILINE | re.DOTALL)
    base = os.path.relpath(ROOT / "deploy/kustomize", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(re.sub(r"https://\S+", base, overlay))
    deployment, gateway = of_kind(kustomize(tmp_path), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/slm-operator:0.1.0"
    assert {"name": "SLM_STORE_CLASS", "value": "fast"} in container["env"]
    assert gateway["spec"]["template"]["spec"]["containers"][0]["image"] == container["image"]


def test_the_kustomization_holds_the_charts_default_objects_and_a_namespace() -> None:
    built = kustomize(ROOT / "deploy/kustomize")
    rendered = [
        rendering.without_helm(each)
        for each in render({})
        if rendering.HOOK not in each["metadata"].get("annotations", {})
    ]

    def by_name(documents: list[Manifest]) -> dict[tuple[str, str], Any]:
        # The CRDs are plain copies: nothing but their labels differs.
        whole = {(each["kind"], each["metadata"]["name"]): each for each in documents}
        return {key: each["spec"] if "Custom" in key[0] else each for key, each in whole.items()}

    (namespace,) = of_kind(built, "Namespace")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert by_name([each for each in built if each is not namespace]) == by_name(rendered)
