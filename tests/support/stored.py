"""Models in a store, without the steps that would fetch them."""

import shutil
from pathlib import Path

from slm_pipelines.store import Store, StoredManifest


def store_folder(store: Store, folder: Path) -> str:
    """Copy the files of a folder into the store as a model; returns the manifest's digest."""
    blobs = []
    for path in sorted(folder.iterdir()):
        with store.scratch() as scratch:
            copy = scratch / path.name
            shutil.copyfile(path, copy)
            blobs.append(store.add_file(copy, path.name))
    return store.add_manifest(StoredManifest("model", tuple(blobs)))
