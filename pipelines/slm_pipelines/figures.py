"""What measuring steps share: the file to measure, and figures that are never measured twice."""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.store import Blob, Store, StoredManifest, recipe_digest

Figures = dict[str, Any]
FILE_NAME = "figures.json"


def gguf_blob(store: Store, manifest: str) -> Blob:
    """The one GGUF of a manifest; raises BadInput InvalidGguf unless there is exactly one, Retryable StoreCorrupt."""
    found = [blob for blob in store.manifest(manifest).blobs if blob.name.lower().endswith(".gguf")]
    if len(found) != 1:
        names = ", ".join(blob.name for blob in found) or "none"
        message = f"Exactly one GGUF file is needed, but {manifest} holds {names}: narrow `allowPatterns` to one."
        raise BadInput(Reason.INVALID_GGUF, message)
    store.require_whole(found)
    return found[0]


@contextlib.contextmanager
def only_one_makes(store: Store, recipe: dict[str, Any]) -> Iterator[None]:
    """Wait while another process works on the recipe; look again whether it is made once inside."""
    with (store.partial_folder(recipe_digest(recipe)) / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_figures(store: Store, manifest: str) -> Figures:
    """The figures that a manifest holds."""
    figures: Figures = json.loads(store.files(manifest)[FILE_NAME].read_bytes())
    return figures


def recall_or_measure(store: Store, recipe: dict[str, Any], measure: Callable[[], Figures]) -> tuple[Figures, bool]:
    """The figures of a recipe, and whether they were in the store already."""
    if known := store.recall(recipe):
        return read_figures(store, known), True
    figures = measure()
    blob = store.add_bytes(json.dumps(figures, sort_keys=True).encode(), FILE_NAME)
    lineage = {name: str(value) for name, value in recipe.items()}
    store.remember(recipe, store.add_manifest(StoredManifest("figures", (blob,), lineage)))
    return figures, False
