"""Turn the safetensors of a model into one unquantized GGUF of the same number format."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult
from slm_contract.specs import ConvertSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.formats import gguf_write, safetensors, shape
from slm_pipelines.formats.gguf_header import read_gguf
from slm_pipelines.gguf_file import write_gguf
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Blob, Store, StoredManifest, recipe_digest

TOOL = "slm-convert 2"
"""Name and version of this converter: raise the version whenever its output bytes change."""
MAX_SMALL_FILE_BYTES = 128 << 20
"""The largest tokenizer.json seen is below 40 MB."""


def run(spec: ConvertSpec, reporter: Reporter) -> ArtifactResult:
    """Convert the model, or hand on the GGUF it already holds.

    Raises BadInput (InvalidSafetensors, InvalidConfig, InvalidGguf, Unsupported…, MissingTokenizer, FileNotFound) and
    Retryable (InsufficientSpace, StoreCorrupt).
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)  # The library narrates each key on standard error.
    store = Store(spec.store)
    blobs = {blob.name: blob for blob in store.manifest(spec.model).blobs}
    store.require_whole(blobs.values())
    if not any(name.endswith(".safetensors") for name in blobs):
        return _hand_on(store, spec.model, blobs)
    recipe = {"step": "convert", "source": spec.model, "tool": TOOL}
    if (done := store.recall(recipe)) is not None:
        return _result(done, store.manifest(done).blobs[0], cached=True)
    blob = _convert(store, blobs, reporter)
    manifest = store.add_manifest(StoredManifest("gguf", (blob,), _lineage(spec.model, recipe)))
    store.remember(recipe, manifest)
    return _result(manifest, blob, cached=False)


def _convert(store: Store, blobs: Mapping[str, Blob], reporter: Reporter) -> Blob:
    files = {name: _small_file(store, blobs[name]) for name in shape.SMALL_FILES if name in blobs}
    paths = _weight_paths(store, blobs, files)
    headers = safetensors.collect_headers(
        list(paths), lambda name, allowed: safetensors.read_header(paths[name], name, allowed)
    )
    checkpoint = shape.check_model(files, headers)
    writer = shape.key_values(checkpoint, files)
    plan = gguf_write.plan_tensors(checkpoint.config, checkpoint.tensors, checkpoint.source_type)
    name = f"model-{checkpoint.source_type}.gguf"
    return write_gguf(store, name, writer, plan, paths, reporter, "Converting the model")


def _weight_paths(store: Store, blobs: Mapping[str, Blob], files: Mapping[str, bytes]) -> dict[str, Path]:
    names = safetensors.weight_files(list(blobs), files.get(safetensors.INDEX_NAME))
    if missing := [name for name in names if name not in blobs]:
        message = f"{safetensors.INDEX_NAME} names {missing[0]}, which the model does not hold: fetch every shard."
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    return {name: store.blob_path(blobs[name].digest) for name in names}


def _small_file(store: Store, blob: Blob) -> bytes:
    if blob.size_bytes > MAX_SMALL_FILE_BYTES:
        message = f"{blob.name} has {blob.size_bytes} bytes, more than the {MAX_SMALL_FILE_BYTES} any real one needs."
        raise BadInput(Reason.INVALID_CONFIG, message)
    return store.blob_path(blob.digest).read_bytes()


def _hand_on(store: Store, model: str, blobs: Mapping[str, Blob]) -> ArtifactResult:
    """The one GGUF file of the model, checked, under a manifest of its own."""
    found = [blob for name, blob in sorted(blobs.items()) if name.endswith(".gguf")]
    if len(found) != 1:
        message = (
            f"The model holds {len(found)} GGUF files and no safetensors: "
            "let allowPatterns choose exactly one unsplit .gguf file."
        )
        raise BadInput(Reason.INVALID_GGUF if found else Reason.FILE_NOT_FOUND, message)
    read_gguf(store.blob_path(found[0].digest), found[0].name)
    manifest = store.add_manifest(StoredManifest("gguf", (found[0],), {"dev.slm.source": model}))
    return _result(manifest, found[0], cached=True)


def _lineage(model: str, recipe: dict[str, Any]) -> dict[str, str]:
    return {"dev.slm.source": model, "dev.slm.recipe": recipe_digest(recipe), "dev.slm.tool": TOOL}


def _result(manifest: str, blob: Blob, *, cached: bool) -> ArtifactResult:
    return ArtifactResult(
        step="convert",
        manifest=manifest,
        blob=blob.digest,
        size_bytes=blob.size_bytes,
        cached=cached,
        tool=TOOL,
    )
