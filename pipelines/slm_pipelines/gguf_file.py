"""A GGUF file that is written straight into the store."""

from collections.abc import Mapping
from pathlib import Path

import gguf

from slm_pipelines.formats import gguf_write
from slm_pipelines.formats.gguf_write import PlannedTensor
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Blob, Store


def write_gguf(
    store: Store,
    name: str,
    writer: gguf.GGUFWriter,
    plan: list[PlannedTensor],
    paths: Mapping[str, Path],
    reporter: Reporter,
    work: str,
) -> Blob:
    """Write the file ``name``; raises Retryable InsufficientSpace, in which ``work`` is what needs the space."""
    total, digest = gguf_write.total_bytes(gguf_write.metadata_bytes(writer), plan), ""
    store.require_space(total, work)
    with store.scratch() as folder:
        target = folder / name
        for done, digest in gguf_write.write_model(writer, plan, paths, target):  # noqa: B007
            reporter.report(f"Writing {name}", done, total, "bytes")
        return store.add_file(target, name, expected=digest)
