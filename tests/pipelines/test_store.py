"""The store holds what it says, and nothing outside it can be named."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from slm_contract import exitcodes
from slm_contract.reasons import Reason
from slm_contract.specs import CollectSpec, ConvertSpec
from slm_pipelines.__main__ import main, run_step
from slm_pipelines.errors import Retryable
from slm_pipelines.figures import gguf_blob
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import acquire, convert
from slm_pipelines.store import Blob, Store, StoredManifest
from tests.support.fetching import acquire_spec, hub, run_resolve
from tests.support.hub import Hub

__all__ = ["hub"]

SHARD = "model-00001-of-00002.safetensors"
OUTSIDE = ["/etc/passwd", "sha256:/etc/passwd", "sha256:../../lock", "", "git-sha1:" + "0" * 40, "sha256:" + "A" * 64]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def cut(store: Store, digest: str) -> None:
    path = store.blob_path(digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("digest", OUTSIDE)
def test_only_a_sha256_names_a_blob(store: Store, digest: str) -> None:
    assert not store.has(digest)
    with pytest.raises(ValueError, match="names no blob"):
        store.blob_path(digest)


def test_a_manifest_that_names_no_blobs_is_damaged(store: Store) -> None:
    digest = store.add_manifest(StoredManifest("model", (Blob("a", "sha256:../../lock", 1),)))
    with pytest.raises(Retryable) as failure:
        store.manifest(digest)
    assert failure.value.reason is Reason.STORE_CORRUPT
    assert "is missing from the store or damaged" in failure.value.message


@pytest.mark.parametrize("root", ["/etc/passwd", "sha256:..", "git-sha1:" + "0" * 40])
def test_a_root_that_is_no_digest_is_a_malformed_spec(store: Store, tmp_path: Path, root: str) -> None:
    spec, result = tmp_path / "spec.json", tmp_path / "result.json"
    spec.write_text(json.dumps({"roots": [root], "store": str(store.folder)}))
    assert main(["collect", "--spec", str(spec), "--result", str(result)]) == exitcodes.USAGE
    error = json.loads(result.read_text())["error"]
    assert error["reason"] == Reason.INVALID_SPEC
    assert "The spec of collect cannot be used" in error["message"]
    assert "roots" in error["message"]


@pytest.mark.parametrize("content", [b"[1, 2]", b'"text"', b'{"artifactType": 1}', b'{"layers": [1]}', b"[" * 100_000])
def test_a_root_may_be_any_content(store: Store, content: bytes) -> None:
    kept, lost = store.add_bytes(content, "kept"), store.add_bytes(b"lost", "lost")
    code, outcome = run_step("collect", CollectSpec(roots=[kept.digest], store=str(store.folder)))
    assert (code, outcome.error) == (exitcodes.OK, None)
    assert store.has(kept.digest)
    assert not store.has(lost.digest)


def test_content_that_is_damaged_is_written_anew(store: Store, tmp_path: Path) -> None:
    blob = store.add_bytes(b"some content", "small")
    cut(store, blob.digest)
    assert store.add_bytes(b"some content", "small") == blob
    assert store.blob_path(blob.digest).read_bytes() == b"some content"
    cut(store, blob.digest)
    copy = tmp_path / "copy"
    copy.write_bytes(b"some content")
    store.add_file(copy, "small")
    assert store.blob_path(blob.digest).read_bytes() == b"some content"


def test_weights_that_were_cut_short_in_the_store_are_fetched_again(hub: Hub, store: Store) -> None:
    spec = acquire_spec(hub, store.folder, run_resolve(hub))
    first = acquire.run(spec, Reporter("acquire"))
    shard = next(blob for blob in store.manifest(first.manifest).blobs if blob.name == SHARD)
    cut(store, shard.digest)
    with pytest.raises(Retryable) as failure:
        convert.run(ConvertSpec(model=first.manifest, store=str(store.folder)), Reporter("convert"))
    assert failure.value.reason is Reason.STORE_CORRUPT
    assert f"{SHARD} ({shard.digest}) is missing from the store or cut short" in failure.value.message
    again = acquire.run(spec, Reporter("acquire"))
    assert again.manifest == first.manifest
    assert shard.size_bytes <= again.fetched_bytes < first.fetched_bytes
    content = store.blob_path(shard.digest).read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == shard.digest


def test_a_gguf_that_was_cut_short_is_not_measured(store: Store) -> None:
    blob = store.add_bytes(b"GGUF, as it were", "model.gguf")
    manifest = store.add_manifest(StoredManifest("gguf", (blob,)))
    assert gguf_blob(store, manifest) == blob
    cut(store, blob.digest)
    with pytest.raises(Retryable) as failure:
        gguf_blob(store, manifest)
    assert failure.value.reason is Reason.STORE_CORRUPT
    assert "apply it again, so that it is made anew" in failure.value.message


def test_what_came_or_was_found_again_after_the_roots_were_gathered_is_kept(store: Store) -> None:
    recipe = {"source": "s", "tool": "t"}
    old, again = store.add_bytes(b"nobody wants this", "old"), store.add_bytes(b"found again", "again")
    manifest = store.add_manifest(StoredManifest("gguf", (again,)))
    store.remember(recipe, manifest)
    time.sleep(0.05)
    gathered = time.time()
    time.sleep(0.05)
    assert store.recall(recipe) == manifest
    new = store.add_bytes(b"made meanwhile", "new")
    code, outcome = run_step("collect", CollectSpec(roots=[], store=str(store.folder), kept_since=gathered))
    assert (code, outcome.error) == (exitcodes.OK, None)
    assert not store.has(old.digest)
    assert all(store.has(digest) for digest in (again.digest, manifest, new.digest))
    # Without that moment only the roots count.
    run_step("collect", CollectSpec(roots=[], store=str(store.folder)))
    assert store.blob_files() == []
