"""Several state folders may share a store: what one of them keeps there, another one's collection spares."""

import shutil
from pathlib import Path

from tests.local.gateway_support import apply
from tests.support.backend import Backend, local_backend
from tests.support.models import write_model


def test_what_another_state_folder_refers_to_is_not_collected(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    other = Backend(tmp_path)
    other.environment["SLM_STATE_HOME"] = str(tmp_path / "other")
    with local_backend(tmp_path) as backend:
        apply(backend)
        backend.wait_ready("slmsvc", "tiny-service")
        kept = sorted((backend.store / "blobs" / "sha256").iterdir())
        assert other.slm("gc").startswith("removed 0 blobs ")
        assert sorted((backend.store / "blobs" / "sha256").iterdir()) == kept != []
    assert other.slm("gc").startswith("removed 0 blobs "), "its objects are still there"
    shutil.rmtree(tmp_path / "state")
    assert other.slm("gc", "--dry-run").startswith(f"would remove {len(kept)} blobs ")
