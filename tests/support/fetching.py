"""Resolve and acquire, as tests call them, against a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_contract.results import AcquireResult, ResolveResult
from slm_contract.specs import AcquireSpec, ResolveSpec
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import acquire, resolve
from tests.support.hub import Hub
from tests.support.models import write_model

REPO = "lab/tiny"
LOOPBACK = ["127.0.0.1"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model in two shards; nobody waits between two tries."""
    write_model(tmp_path / "hub" / REPO, "qwen3", tied=True, vocab=2048, shards=2)
    (tmp_path / "hub" / REPO / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.setattr("slm_pipelines.hub.sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub(tmp_path / "hub") as running:
        yield running


def source(hub: Hub, **more: Any) -> dict[str, Any]:
    """The hub's repository as a source."""
    return {"huggingFace": {"repo": REPO, "endpoint": hub.endpoint, **more}}


def run_resolve(hub: Hub, **fields: Any) -> ResolveResult:
    """Resolve the repository."""
    spec = {"source": source(hub), "allowPrivateHosts": LOOPBACK, **fields}
    return resolve.run(ResolveSpec.model_validate(spec), Reporter("resolve"))


def acquire_spec(hub: Hub, store: Path, found: ResolveResult, **fields: Any) -> AcquireSpec:
    """What brings a resolved model into the store."""
    files = [file.model_dump() for file in found.files]
    spec = {"source": source(hub), "revision": found.revision, "files": files, "allowPrivateHosts": LOOPBACK}
    return AcquireSpec.model_validate({**spec, "store": str(store), **fields})


def run_acquire(hub: Hub, store: Path, **fields: Any) -> AcquireResult:
    """Resolve the repository and bring it into the store."""
    return acquire.run(acquire_spec(hub, store, run_resolve(hub), **fields), Reporter("acquire"))
