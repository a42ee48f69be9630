"""What kstatus, and so Flux, makes of our objects: its own code, over what the planners write."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import build
from dev.cluster.build import BuildFailed
from slm_operator.api.crdgen import UNSEEN_STATUS
from tests.chart.conftest import skip_or_raise
from tests.support.judging import STATES

SOURCE = Path(__file__).parent / "kstatus"
EXPECTED = {
    "model new": "InProgress",
    "model progressing": "InProgress",
    "model stalled": "Failed",
    "model ready": "Current",
    "model suspended": "InProgress",  # kstatus knows no rest: nothing is done yet, and nothing is wrong.
    "job waiting": "InProgress",
    "job stalled": "Failed",
    "job ready": "Current",
    "job suspended": "InProgress",
    "service starting": "InProgress",
    "service stalled": "Failed",
    "service ready": "Current",
    "service stopped": "InProgress",
    "service outdated": "InProgress",
}


@pytest.fixture(scope="module")
def program() -> Path:
    """Built once per version of its sources, with the Kubernetes modules that the cluster's own build has compiled."""
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in ("main.go", "go.sum"))).hexdigest()[:12]
    command = ["install", "-trimpath", "-ldflags", "-s -w", "."]
    try:
        return build._built(build._place(f"kstatus-{digest}"), command, SOURCE, "kstatus")
    except BuildFailed as problem:
        skip_or_raise(problem)


def judge(program: Path, manifests: list[dict[str, Any]]) -> list[dict[str, str]]:
    done = subprocess.run([str(program)], input=json.dumps(manifests), capture_output=True, text=True, check=True)
    answers: list[dict[str, str]] = json.loads(done.stdout)
    return answers


def test_kstatus_sees_every_state_of_the_planners_as_it_is(program: Path) -> None:
    manifests = [{"status": UNSEEN_STATUS, **make()} for make in STATES.values()]
    answers = judge(program, manifests)
    assert {name: answer["status"] for name, answer in zip(STATES, answers, strict=True)} == EXPECTED


def test_kstatus_tells_our_sentences(program: Path) -> None:
    stalled, progressing, ready = judge(
        program, [STATES[f"model {name}"]() for name in ("stalled", "progressing", "ready")]
    )
    assert stalled["message"] == "only pickles"
    assert progressing["message"].startswith("acquire: ")
    assert ready["message"] == "Resource is Ready"


def test_an_object_without_the_default_status_would_count_as_done(program: Path) -> None:
    (answer,) = judge(program, [STATES["model new"]()])
    assert answer["status"] == "Current"
