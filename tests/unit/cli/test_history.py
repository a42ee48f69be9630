"""Whose an event is: by the labels of what it is about, or by the name of what is gone."""

import pytest

from slm_contract.specs import LocalPath, ResolveSpec, Source
from slm_operator.api.registry import parse_resource
from slm_operator.cli.history import STEPS, belongs_to
from slm_operator.cli.naming import build_model
from slm_operator.core.manifests.job import build_job_name
from slm_operator.core.sequence import STEP_REASONS
from slm_operator.ports import ObjectKey

MODEL = ObjectKey("SLMModel", "default", "demo")
JOB = ObjectKey("QuantJob", "default", "demo")
SERVICE = ObjectKey("InferenceService", "default", "demo")


def owners(kind: str, name: str) -> list[str]:
    """Kinds of the objects called demo to which an event about what is gone belongs."""
    row = {"kind": kind, "name": name, "namespace": "default"}
    return [owner.kind for owner in (MODEL, JOB, SERVICE) if belongs_to(row, owner, {})]


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("SLMModel", "demo", ["SLMModel"]),
        ("Job", "demo-acquire-0123abcd", ["SLMModel"]),
        ("Pod", "demo-quantize-q4-k-m-0123abcd-2", ["QuantJob"]),
        ("Pod", "demo-convert-0123abcd-1", ["QuantJob", "InferenceService"]),
        ("Pod", "demo-0123456789-abcdef", ["InferenceService"]),
        ("Pod", "demo-2-0123456789-abcdef", []),
        ("Pod", "demo-2-convert-0123abcd-1", []),
        ("Pod", "demonstration", []),
        ("QuantJob", "demo-report-0123abcd", []),
    ],
)
def test_what_is_gone_is_told_by_its_name(kind: str, name: str, expected: list[str]) -> None:
    assert owners(kind, name) == expected


def test_what_is_there_is_told_by_its_labels() -> None:
    pod = ObjectKey("Pod", "default", "demo-0123456789-abcdef")
    row = {"kind": "Pod", "name": pod.name, "namespace": "default"}
    living = {pod: {"slm.dev/kind": "QuantJob", "slm.dev/name": "demo"}}
    assert belongs_to(row, JOB, living)
    assert not belongs_to(row, SERVICE, living)


def test_names_are_made_as_they_are_told() -> None:
    owner = parse_resource(build_model("demo", "default", {"path": "/m"}))
    name = build_job_name(owner, ResolveSpec(source=Source(path=LocalPath(path="/m"))), "resolve")
    assert owners("Job", name) == ["SLMModel"]
    assert {step for steps in STEPS.values() for step in steps} == set(STEP_REASONS)
