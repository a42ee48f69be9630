"""Resolve and acquire against a hub on loopback, and against a folder."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from slm_contract.reasons import Reason
from slm_contract.specs import AcquireSpec, ResolveSpec
from slm_pipelines.download import BLOCK_BYTES
from slm_pipelines.errors import StepFailure
from slm_pipelines.hub import CONNECTIONS
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import acquire, resolve
from slm_pipelines.store import Store
from tests.support.fetching import REPO, acquire_spec, hub, run_acquire, run_resolve, source
from tests.support.hub import SLOW_PIECE_BYTES, Fault, Hub
from tests.support.real_steps import store_content

__all__ = ["hub"]


def test_resolve_learns_everything_from_headers_alone(hub: Hub) -> None:
    found = run_resolve(hub)
    true = {file.name: file for file in hub.files(REPO)}
    weights = sum(file.size for name, file in true.items() if name.endswith(".safetensors"))
    read = sum(last - first + 1 for request in hub.requests if request.range for first, last in [request.range])
    assert found.revision == hub.commit(REPO)
    assert (found.architecture, found.license, found.format) == ("Qwen3ForCausalLM", "apache-2.0", "safetensors")
    assert {file.name: (file.size_bytes, file.digest.split(":")[1]) for file in found.files} == {
        name: (file.size, file.sha256 if file.large else file.blob_id)
        for name, file in true.items()
        if name != "README.md"
    }
    assert read < weights / 3


def test_acquired_files_are_the_hubs_and_a_second_run_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    first = run_acquire(hub, tmp_path / "store")
    files = Store(tmp_path / "store").files(first.manifest)
    assert {name: path.read_bytes() for name, path in files.items()} == {
        file.name: file.path.read_bytes() for file in hub.files(REPO) if file.name != "README.md"
    }
    assert first.fetched_bytes == first.size_bytes == sum(path.stat().st_size for path in files.values())
    again = run_acquire(hub, tmp_path / "store")
    assert (again.manifest, again.fetched_bytes) == (first.manifest, 0)


def test_a_list_that_did_not_fit_the_message_is_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    assert run_acquire(hub, tmp_path / "a", files=[]).manifest == run_acquire(hub, tmp_path / "b").manifest


def test_the_token_goes_to_the_hub_and_never_to_the_host_it_redirects_to(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(REPO)
    hub.private.add(REPO)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    run_acquire(hub, tmp_path / "store")
    assert {request.authorization for request in hub.requests if request.server == "hub"} == {f"Bearer {hub.token}"}
    assert {request.authorization for request in hub.requests if request.server == "cdn"} == {""}


def test_a_hub_that_a_manifest_names_does_not_get_our_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    run_resolve(hub, source=source(hub, sendToken=False))
    assert {request.authorization for request in hub.requests} == {""}


def test_busy_answers_and_broken_connections_are_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [
        Fault("revision/main", 2, 429, {"Retry-After": "1"}),
        Fault("config.json", 1, 503),
        Fault("cdn:/lab/tiny/model-00001-of-00002.safetensors", 3, cut_after=70_000),
    ]
    done = run_acquire(hub, tmp_path / "store")
    assert done.file_count == len(hub.files(REPO)) - 1
    assert [fault.times for fault in hub.faults] == [0, 0, 0]


def test_a_hub_that_stays_busy_ends_the_step_with_a_retry(hub: Hub) -> None:
    hub.faults = [Fault("revision/main", 99, 429, {"Retry-After": "3600"})]
    with pytest.raises(StepFailure) as failure:
        run_resolve(hub)
    assert failure.value.reason is Reason.SOURCE_UNAVAILABLE
    assert "answers 429" in failure.value.message
    assert len(hub.requests) == 1


def test_wrong_bytes_once_are_healed_and_twice_are_refused(hub: Hub, tmp_path: Path) -> None:
    name = "cdn:/lab/tiny/model-00001-of-00002.safetensors"
    found = run_resolve(hub)
    hub.faults = [Fault(name, 1, flip=True)]
    acquire.run(acquire_spec(hub, tmp_path / "healed", found), Reporter("acquire"))
    hub.faults = [Fault(name, 2, flip=True)]
    with pytest.raises(StepFailure) as failure:
        acquire.run(acquire_spec(hub, tmp_path / "refused", found), Reporter("acquire"))
    assert failure.value.reason is Reason.CHECKSUM_MISMATCH
    assert "arrived twice as sha256:" in failure.value.message
    held = store_content(tmp_path / "refused")
    assert not any(len(content) for name, content in held.items() if name.startswith("recipes"))


@pytest.mark.parametrize("kills", [1, 3])
def test_a_download_killed_with_sigkill_goes_on_where_it_was(hub: Hub, tmp_path: Path, kills: int) -> None:
    extra = tmp_path / "hub" / REPO / "extra.safetensors"
    extra.write_bytes(os.urandom(48 << 20))
    listed = run_resolve(hub).files
    big = {"name": extra.name, "sizeBytes": extra.stat().st_size, "digest": _sha256(extra)}
    files = [*(file.model_dump(by_alias=True) for file in listed), big]
    spec = acquire_spec(hub, tmp_path / "store", run_resolve(hub), files=files)
    hub.faults = [Fault("cdn:/lab/tiny/extra.safetensors", 10_000, bytes_per_second=6 << 20)]
    bound = BLOCK_BYTES * CONNECTIONS
    assert bound <= 8 << 20
    for kill in range(kills):
        process = _start_acquire(spec)
        _wait_for_blocks(tmp_path / "store", 16 * (kill + 1), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert _received(tmp_path / "store", extra) - _journaled(tmp_path / "store") <= bound * (kill + 1)
    before = _journaled(tmp_path / "store")
    hub.faults.clear()
    hub.sent.clear()
    process = _start_acquire(spec)
    output, _ = process.communicate()
    result = json.loads(output.splitlines()[-1])["result"]
    assert process.returncode == 0
    assert result["fetchedBytes"] <= extra.stat().st_size - before + sum(file.size_bytes for file in listed)
    missing = extra.stat().st_size - before
    assert missing <= hub.sent[extra.name] <= missing + CONNECTIONS * SLOW_PIECE_BYTES  # Of clients just killed.
    assert _sha256(Store(tmp_path / "store").files(result["manifest"])[extra.name]) == big["digest"]
    assert not list((tmp_path / "store" / "tmp").iterdir())


def test_no_byte_is_asked_for_twice_where_nothing_breaks(hub: Hub, tmp_path: Path) -> None:
    run_acquire(hub, tmp_path / "store")
    asked = sorted(hub.fetched("model-00002-of-00002.safetensors"))
    acquired = [bounds for bounds in asked if bounds[1] - bounds[0] > 1 << 16]
    assert acquired
    assert all(before[1] < after[0] for before, after in pairwise(acquired))


def test_two_runs_at_once_fetch_the_weights_once(hub: Hub, tmp_path: Path) -> None:
    spec = acquire_spec(hub, tmp_path / "store", run_resolve(hub))
    hub.requests.clear()
    hub.faults = [Fault("cdn:/lab/tiny/model-00001-of-00002.safetensors", 99, bytes_per_second=1 << 20)]
    running = [_start_acquire(spec) for _ in range(2)]
    results = [json.loads(process.communicate()[0].splitlines()[-1])["result"] for process in running]
    assert results[0]["manifest"] == results[1]["manifest"]
    assert len(hub.fetched("model-00001-of-00002.safetensors")) == 1


def test_a_folder_is_copied_and_checked_like_a_repository(hub: Hub, tmp_path: Path) -> None:
    folder = {"path": {"path": str(tmp_path / "hub" / REPO)}}
    found = resolve.run(ResolveSpec.model_validate({"source": folder}), Reporter("resolve"))
    assert found.license == "apache-2.0"
    spec = acquire_spec(hub, tmp_path / "store", found, source=folder)
    done = acquire.run(spec, Reporter("acquire"))
    from_hub = run_acquire(hub, tmp_path / "other")
    blobs = [
        Store(tmp_path / name).manifest(digest).blobs
        for name, digest in (("store", done.manifest), ("other", from_hub.manifest))
    ]
    assert blobs[0] == blobs[1]


def _sha256(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def _start_acquire(spec: AcquireSpec) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "slm_pipelines", "acquire", "--spec-env", "SLM_SPEC"]
    env = {**os.environ, "SLM_SPEC": spec.model_dump_json(by_alias=True)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def _journaled(store: Path) -> int:
    """Bytes of the largest half-fetched file that need not be fetched again."""
    return max(
        (path.stat().st_size // 4 * BLOCK_BYTES for path in (store / "tmp").glob("partial-*/journal")), default=0
    )


def _received(store: Path, original: Path) -> int:
    """Bytes of the original on the disk; what a hub has sent may still lie in a socket when a client is killed."""
    page, true = 4096, original.read_bytes()
    files = (path.read_bytes() for path in (store / "tmp").glob("partial-*/data"))
    data = next(content for content in files if len(content) == len(true))
    return sum(page for at in range(0, len(true), page) if data[at : at + page] == true[at : at + page])


def _wait_for_blocks(store: Path, count: int, process: "subprocess.Popen[str]") -> None:
    while _journaled(store) < count * BLOCK_BYTES:
        assert process.poll() is None
        time.sleep(0.01)
