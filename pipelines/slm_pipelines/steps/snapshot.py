"""Show the files of a model, or of an adapter, under the names of its repository, for engines that read a folder."""

from collections.abc import Mapping
from pathlib import Path

from slm_contract.reasons import Reason
from slm_contract.results import SnapshotResult
from slm_contract.specs import SnapshotSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.adapter import check_targets, read_adapter
from slm_pipelines.formats.folder_vocabulary import check_vocabularies
from slm_pipelines.formats.safetensors import ADAPTER_CONFIG, collect_headers, merge, read_header
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Store

MAX_RANK = 512
"""vLLM's highest ``--max-lora-rank``."""


def run(spec: SnapshotSpec, reporter: Reporter) -> SnapshotResult:
    """Link the model's files; nothing is copied.

    Raises BadInput FileNotFound where there are no safetensors, for an adapter what ``check_adapter`` and
    ``check_targets`` raise, for a draft model what ``check_vocabularies`` does, and Retryable StoreCorrupt.
    """
    store = Store(spec.store)
    blobs = store.manifest(spec.model).blobs
    weights = [blob for blob in blobs if blob.name.endswith(".safetensors")]
    if not weights:
        message = "The model holds no safetensors, which alone this engine reads: set spec.runtime to llama.cpp."
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    if spec.beside:
        _check(store.files(spec.model), store.files(spec.beside))
    reporter.report(f"Linking {len(blobs)} files")
    store.link_snapshot(spec.model)
    size_bytes = sum(blob.size_bytes for blob in weights)
    return SnapshotResult(manifest=spec.model, size_bytes=size_bytes, file_count=len(blobs))


def _check(files: Mapping[str, Path], served: Mapping[str, Path]) -> None:
    """Hold a draft model or an adapter against what is served."""
    if ADAPTER_CONFIG not in files:
        check_vocabularies(files, served)
        return
    adapter = read_adapter(files)
    if adapter.rank > MAX_RANK:
        message = (
            f"The adapter's rank is {adapter.rank}, and vLLM serves up to {MAX_RANK}: set spec.runtime to llama.cpp, "
            "or merge it into its model."
        )
        raise BadInput(Reason.UNSUPPORTED_ADAPTER, message)
    weights = sorted(name for name in served if name.endswith(".safetensors"))
    headers = collect_headers(weights, lambda name, allowed_bytes: read_header(served[name], name, allowed_bytes))
    check_targets(adapter, {name: tensor for name, (_, tensor) in merge(headers).items()})
