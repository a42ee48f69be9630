"""What a real API server accepts and refuses, and what a user then reads."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.access import Access
from slm_operator.api.registry import INFOS, parse_resource
from tests.support.clusters import ROOT
from tests.unit.api.test_manifests import ACCEPTED, HUB, JOB, REF, REFUSED, Spec, manifest


def dry_run(access: Access, namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    """The object as the API server would store it; raises CalledProcessError with the message a user reads."""
    command = ("create", "-n", namespace, "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    made: dict[str, Any] = json.loads(access.kubectl(*command, stdin=json.dumps(document)))
    return made


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_what_we_accept_the_api_server_accepts(control_plane: Access, namespace: str, kind: str, spec: Spec) -> None:
    assert dry_run(control_plane, namespace, manifest(kind, spec))["kind"] == kind


def rules_of(kind: str) -> set[str]:
    """Sentences of the rules over a whole spec: the API server says them word for word."""
    return {rule.message for rule in INFOS[kind].rules}


@pytest.mark.parametrize(("kind", "spec", "ours"), REFUSED)
def test_what_we_refuse_the_api_server_refuses_naming_the_same_field_or_rule(
    control_plane: Access, namespace: str, kind: str, spec: Spec, ours: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        dry_run(control_plane, namespace, manifest(kind, spec))
    fields = [re.sub(r"\.(\d+)", r"[\1]", name) for name in re.findall(r"[a-z]\w*(?:\.\w+)+|\w+Patterns\S*", ours)]
    expected = [*rules_of(kind), *(name.rstrip(":") for name in fields if name != "spec")]
    assert any(text in refused.value.stderr for text in expected), (ours, refused.value.stderr)


IMMUTABLE = [
    ("SLMModel", {"source": HUB}, {"source": {"path": "/m"}}, "spec.source is immutable"),
    ("QuantJob", JOB, {**JOB, "modelRef": {"name": "other"}}, "spec.modelRef is immutable"),
]


@pytest.mark.parametrize(("kind", "before", "after", "message"), IMMUTABLE)
def test_what_identifies_an_object_cannot_be_changed(
    control_plane: Access, namespace: str, kind: str, before: Spec, after: Spec, message: str
) -> None:
    command = ("apply", "-n", namespace, "--server-side", "-f", "-")
    control_plane.kubectl(*command, stdin=json.dumps(manifest(kind, before, name="changing")))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        control_plane.kubectl(*command, stdin=json.dumps(manifest(kind, after, name="changing")))
    assert message in refused.value.stderr


def test_defaults_of_the_api_server_are_ours(control_plane: Access, namespace: str) -> None:
    for kind, spec in (("SLMModel", {"source": HUB}), ("QuantJob", JOB), ("InferenceService", REF)):
        stored = dry_run(control_plane, namespace, manifest(kind, spec))
        ours = parse_resource(manifest(kind, spec)).model_dump(mode="json", by_alias=True, exclude_none=True)
        assert parse_resource(stored).model_dump(mode="json", by_alias=True, exclude_none=True)["spec"] == ours["spec"]


@pytest.mark.parametrize(
    ("kind", "spec"), [("SLMModel", {"source": HUB}), ("QuantJob", JOB), ("InferenceService", REF)]
)
def test_an_object_that_nobody_looked_at_says_so(control_plane: Access, namespace: str, kind: str, spec: Spec) -> None:
    document = json.dumps(manifest(kind, spec, name="unseen"))
    control_plane.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", stdin=document)
    stored = json.loads(control_plane.kubectl("get", "-n", namespace, kind, "unseen", "-o", "json"))
    assert stored["status"] == {"observedGeneration": -1}
    assert parse_resource(stored).status.observed_generation == -1


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_accepted(control_plane: Access, namespace: str, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] in INFOS:
            assert dry_run(control_plane, namespace, document)["metadata"]["name"] == document["metadata"]["name"]
