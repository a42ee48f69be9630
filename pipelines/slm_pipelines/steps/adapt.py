"""Turn a LoRA adapter into a GGUF adapter for one model, in the adapter's own number format."""

import logging
from pathlib import Path

from slm_contract.results import ArtifactResult
from slm_contract.specs import AdaptSpec
from slm_pipelines.formats import adapter as lora
from slm_pipelines.formats.gguf_header import read_gguf
from slm_pipelines.formats.safetensors import ADAPTER_WEIGHTS
from slm_pipelines.gguf_file import write_gguf
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Blob, Store, StoredManifest, recipe_digest

TOOL = "slm-adapt 1"
"""Name and version of this converter: raise the version whenever its output bytes change."""
NAME = "adapter.gguf"


def run(spec: AdaptSpec, reporter: Reporter) -> ArtifactResult:
    """Convert the adapter for the model.

    Raises BadInput (AdapterMismatch, UnsupportedAdapter, UnsupportedArchitecture, FileNotFound, Invalid…) and Retryable
    (InsufficientSpace, StoreCorrupt).
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)  # The library narrates each key on standard error.
    store = Store(spec.store)
    recipe = {"step": "adapt", "adapter": spec.adapter, "source": spec.model, "tool": TOOL}
    if (done := store.recall(recipe)) is not None:
        return _result(done, store.manifest(done).blobs[0], cached=True)
    blob = _adapt(store, spec, reporter)
    lineage = {"dev.slm.source": spec.adapter, "dev.slm.recipe": recipe_digest(recipe), "dev.slm.tool": TOOL}
    manifest = store.add_manifest(StoredManifest("gguf", (blob,), lineage))
    store.remember(recipe, manifest)
    return _result(manifest, blob, cached=False)


def _adapt(store: Store, spec: AdaptSpec, reporter: Reporter) -> Blob:
    store.require_whole(store.manifest(spec.adapter).blobs)
    files = store.files(spec.adapter)
    adapter = lora.read_adapter(files)
    base = _find_base(store.files(spec.model))
    writer, plan = lora.key_values(adapter, base), lora.plan_adapter(adapter, base)
    sources = {ADAPTER_WEIGHTS: files[ADAPTER_WEIGHTS]}
    return write_gguf(store, NAME, writer, plan, sources, reporter, "Converting the adapter")


def _find_base(files: dict[str, Path]) -> lora.Base:
    for name, path in files.items():
        if name.endswith(".gguf"):
            return lora.base_of_gguf(read_gguf(path, name))
    return lora.base_of_config({name: path.read_bytes() for name, path in files.items() if name == "config.json"})


def _result(manifest: str, blob: Blob, *, cached: bool) -> ArtifactResult:
    return ArtifactResult(
        step="adapt", manifest=manifest, blob=blob.digest, size_bytes=blob.size_bytes, cached=cached, tool=TOOL
    )
