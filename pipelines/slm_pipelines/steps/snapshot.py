"""Show the files of a model under the names of its repository, for engines that read a folder and not one file."""

from slm_contract.reasons import Reason
from slm_contract.results import SnapshotResult
from slm_contract.specs import SnapshotSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Store


def run(spec: SnapshotSpec, reporter: Reporter) -> SnapshotResult:
    """Link the model's files; nothing is copied.

    Raises BadInput FileNotFound where there are no safetensors, and Retryable StoreCorrupt.
    """
    store = Store(spec.store)
    blobs = store.manifest(spec.model).blobs
    weights = [blob for blob in blobs if blob.name.endswith(".safetensors")]
    if not weights:
        message = "The model holds no safetensors, which alone this engine reads: set spec.runtime to llama.cpp."
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    reporter.report(f"Linking {len(blobs)} files")
    store.link_snapshot(spec.model)
    return SnapshotResult(
        manifest=spec.model, size_bytes=sum(blob.size_bytes for blob in weights), file_count=len(blobs)
    )
