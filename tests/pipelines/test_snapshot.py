"""A model's files as a folder, under the names that they have in their repository."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from slm_contract import exitcodes
from slm_contract.reasons import Reason
from slm_contract.results import Outcome, SnapshotResult
from slm_contract.specs import CollectSpec, SnapshotSpec
from slm_pipelines.__main__ import run_step
from slm_pipelines.store import Blob, Store, StoredManifest
from tests.support.adapters import load_file, save_file, write_adapter
from tests.support.models import write_model

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "model-00001-of-00002.safetensors": b"first",
    "model-00002-of-00002.safetensors": b"second one",
    "onnx/config.json": b"{}",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def keep(store: Store, files: dict[str, bytes]) -> str:
    blobs = tuple(store.add_bytes(content, name) for name, content in files.items())
    return store.add_manifest(StoredManifest("model", blobs))


def snapshot(store: Store, model: str) -> SnapshotResult:
    code, outcome = run_step("snapshot", SnapshotSpec(model=model, store=str(store.folder)))
    assert (code, outcome.error) == (exitcodes.OK, None)
    assert isinstance(outcome.result, SnapshotResult)
    return outcome.result


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_shows_the_repository_and_takes_no_room_also_where_the_store_is_seen_elsewhere(
    store: Store, tmp_path: Path
) -> None:
    model = keep(store, FILES)
    result = snapshot(store, model)
    assert (result.manifest, result.file_count, result.size_bytes) == (model, 5, len(b"first" + b"second one"))
    folder = store.folder / "snapshots" / "sha256" / model.removeprefix("sha256:")
    assert read(folder) == FILES
    assert all(path.is_symlink() for path in folder.rglob("*") if not path.is_dir())
    moved = tmp_path / "as a pod sees it"
    store.folder.rename(moved)
    assert read(moved / folder.relative_to(store.folder)) == FILES


def test_twice_is_once_and_what_is_half_done_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = keep(store, FILES)
    made: list[Path] = []
    limit, symlink = 3, Path.symlink_to

    def link(place: Path, target: str) -> None:
        if len(made) == limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(place)
        symlink(place, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", link)
        code, outcome = run_step("snapshot", SnapshotSpec(model=model, store=str(store.folder)))
    assert code == exitcodes.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.reason is Reason.INSUFFICIENT_SPACE
    assert store.snapshot_folders() == []
    assert snapshot(store, model) == snapshot(store, model)
    assert len(store.snapshot_folders()) == 1
    assert store.scratch_entries() == []


def test_a_file_that_was_cut_short_is_not_served(store: Store) -> None:
    model = keep(store, FILES)
    path = store.blob_path(store.manifest(model).blobs[2].digest)
    path.chmod(0o600)
    path.write_bytes(b"fir")
    code, outcome = run_step("snapshot", SnapshotSpec(model=model, store=str(store.folder)))
    assert code == exitcodes.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.reason is Reason.STORE_CORRUPT


def test_a_gguf_repository_is_refused_with_what_to_change(store: Store) -> None:
    code, outcome = run_step(
        "snapshot", SnapshotSpec(model=keep(store, {"model.gguf": b"GGUF"}), store=str(store.folder))
    )
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert "set spec.runtime to llama.cpp" in outcome.error.message


@pytest.mark.parametrize("name", ["../../../../evil", "/etc/evil", "a/../../../../../evil"])
def test_no_name_leads_out_of_the_folder(store: Store, tmp_path: Path, name: str) -> None:
    blob = store.add_bytes(b"x", "x")
    weights = store.add_bytes(b"w", "w.safetensors")
    model = store.add_manifest(StoredManifest("model", (Blob(name, blob.digest, blob.size_bytes), weights)))
    code, _ = run_step("snapshot", SnapshotSpec(model=model, store=str(store.folder)))
    assert code == exitcodes.INTERNAL
    assert store.snapshot_folders() == []
    assert not any(path.name == "evil" for path in tmp_path.rglob("*"))


def test_garbage_collection_takes_the_folder_with_its_model_and_leaves_those_in_use(store: Store) -> None:
    used, unused = keep(store, FILES), keep(store, {"a.safetensors": b"unused"})
    for model in (used, unused):
        snapshot(store, model)
    run_step("collect", CollectSpec(roots=[used], store=str(store.folder), dry_run=True))
    assert len(store.snapshot_folders()) == 2
    code, outcome = run_step("collect", CollectSpec(roots=[used], store=str(store.folder)))
    assert (code, outcome.error) == (exitcodes.OK, None)
    (kept,) = store.snapshot_folders()
    assert kept.name == used.removeprefix("sha256:")
    assert read(kept) == FILES


def test_an_older_store_gets_the_folder_when_it_is_opened(store: Store) -> None:
    shutil.rmtree(store.folder / "snapshots")
    assert Store(store.folder).snapshot_folders() == []


def outcome_beside(store: Store, folder: Path, base: Path) -> tuple[int, Outcome]:
    """What comes of the folder beside the model in ``base``."""

    def keep_folder(files: Path) -> str:
        return keep(store, {path.name: path.read_bytes() for path in files.iterdir()})

    spec = SnapshotSpec(model=keep_folder(folder), beside=keep_folder(base), store=str(store.folder))
    return run_step("snapshot", spec)


def test_an_adapter_that_fits_gets_its_folder(store: Store, tmp_path: Path) -> None:
    base = write_model(tmp_path / "model", dtype="f32")
    code, outcome = outcome_beside(store, write_adapter(tmp_path / "lora", base, rank=12), base)
    assert (code, outcome.error) == (exitcodes.OK, None)
    assert isinstance(outcome.result, SnapshotResult)
    assert outcome.result.file_count == 2
    assert len(store.snapshot_folders()) == 1


def test_an_adapter_of_another_model_gets_no_folder(store: Store, tmp_path: Path) -> None:
    base = write_model(tmp_path / "model", dtype="f32")
    wider = write_model(tmp_path / "wider", hidden=512, dtype="f32")
    code, outcome = outcome_beside(store, write_adapter(tmp_path / "lora", wider), base)
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert outcome.error.reason is Reason.ADAPTER_MISMATCH
    assert "name the model that the adapter was trained on." in outcome.error.message
    assert store.snapshot_folders() == []


def test_an_adapter_of_a_rank_that_vllm_does_not_take_is_refused(store: Store, tmp_path: Path) -> None:
    base = write_model(tmp_path / "model", dtype="f32")
    code, outcome = outcome_beside(store, write_adapter(tmp_path / "lora", base, rank=513), base)
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert outcome.error.message.startswith("The adapter's rank is 513, and vLLM serves up to 512: set spec.runtime")


def test_of_quantized_weights_the_names_are_looked_at(store: Store, tmp_path: Path) -> None:
    base = write_model(tmp_path / "model", dtype="f32")
    adapter = write_adapter(tmp_path / "lora", base)
    packed = {
        name.replace("_proj.weight", "_proj.qweight"): each
        for name, each in load_file(base / "model.safetensors").items()
    }
    save_file(packed, base / "model.safetensors")
    assert outcome_beside(store, adapter, base)[0] == exitcodes.OK
    (gone, *_) = [name for name in packed if name.endswith("q_proj.qweight")]
    save_file({name: each for name, each in packed.items() if name != gone}, base / "model.safetensors")
    code, outcome = outcome_beside(store, adapter, base)
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert "which the model does not have" in outcome.error.message


DRAFTS: dict[str, tuple[dict[str, Any], str]] = {
    "another size": ({"config": {"vocab_size": 640}}, "its vocab_size is 640, not 512"),
    "another token": ({"vocab": 520, "config": {"vocab_size": 512}}, "of it, not token"),
    "another kind": ({"tokenizer": "pieces", "vocab": 640, "config": {"vocab_size": 512}}, "of it, not token"),
}


@pytest.mark.parametrize(("draft", "difference"), DRAFTS.values(), ids=DRAFTS)
def test_a_draft_model_of_other_tokens_gets_no_folder(
    store: Store, tmp_path: Path, draft: dict[str, Any], difference: str
) -> None:
    base = write_model(tmp_path / "model")
    code, outcome = outcome_beside(store, write_model(tmp_path / "draft", **draft), base)
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert outcome.error.reason is Reason.VOCABULARY_MISMATCH
    assert difference in outcome.error.message
    assert store.snapshot_folders() == []


@pytest.mark.parametrize("tokenizer", ["bytes", "pieces"])
def test_a_draft_model_of_the_same_tokens_gets_one(store: Store, tmp_path: Path, tokenizer: str) -> None:
    kind: dict[str, Any] = {"tokenizer": tokenizer, **({"vocab": 640} if tokenizer == "pieces" else {})}
    base, draft = write_model(tmp_path / "model", **kind), write_model(tmp_path / "draft", layers=1, seed=2, **kind)
    assert outcome_beside(store, draft, base)[0] == exitcodes.OK


def test_a_tokenizer_that_cannot_be_compared_is_told(store: Store, tmp_path: Path) -> None:
    base, draft = write_model(tmp_path / "model"), write_model(tmp_path / "draft")
    for content, words in (('{"model": {"vocab": 7}}', "is malformed"), ("", "cannot be compared without")):
        (draft / "tokenizer.json").unlink()
        if content:
            (draft / "tokenizer.json").write_text(content)
        code, outcome = outcome_beside(store, draft, base)
        assert code == exitcodes.BAD_INPUT
        assert outcome.error is not None
        assert words in outcome.error.message
        (draft / "tokenizer.json").touch()
