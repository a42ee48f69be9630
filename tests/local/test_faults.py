"""What a setting or a token can mend is looked at again as soon as somebody asks."""

import contextlib
from pathlib import Path

import psutil
import pytest

from slm_operator.local.faults import failed_by_fault
from tests.support.backend import Backend, local_backend
from tests.support.hub import Hub
from tests.support.models import write_model
from tests.support.planning import manifest


@pytest.mark.parametrize(
    ("reason", "status", "expected"),
    [
        ("BackoffLimitExceeded", "True", True),
        ("PodFailurePolicy", "True", False),
        ("BackoffLimitExceeded", "False", False),
    ],
)
def test_a_bad_input_is_no_fault(reason: str, status: str, expected: bool) -> None:  # noqa: FBT001 - a table
    job = {"status": {"conditions": [{"type": "Failed", "status": status, "reason": reason}]}}
    assert failed_by_fault(job) is expected


def stalled(backend: Backend) -> str:
    backend.slm("wait", "--for=condition=Stalled", "slmmodel/m", "--timeout=60s")
    conditions = {item["type"]: item for item in backend.get("slmmodel", "m")["status"]["conditions"]}
    return str(conditions["Ready"]["reason"])


def test_a_token_given_to_the_next_daemon_is_used_at_once(tmp_path: Path) -> None:
    write_model(tmp_path / "hub" / "lab" / "gated", "qwen3", tied=True)
    with Hub(tmp_path / "hub") as hub, local_backend(tmp_path / "slm", hub.endpoint) as backend:
        hub.gated.add("lab/gated")
        backend.apply(manifest("SLMModel", "m", {"source": {"huggingFace": {"repo": "lab/gated"}}}))
        assert stalled(backend) == "GatedRepository"
        backend.slm("down")
        backend.environment["HF_TOKEN"] = hub.token
        backend.slm("up")
        assert backend.wait_ready("slmmodel", "m", 60)["status"]["format"] == "safetensors"
        backend.apply(manifest("InferenceService", "s", {"modelRef": {"name": "m"}}))
        backend.wait_ready("inferenceservice", "s", 60)
        daemon, seen = backend.daemon().pid, []
        for process in backend.processes():
            with contextlib.suppress(psutil.Error):
                seen += [process.environ()] if process.pid != daemon else []
        assert seen
        assert not any(hub.token in variables.values() for variables in seen)
