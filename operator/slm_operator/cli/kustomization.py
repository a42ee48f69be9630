"""``-k FOLDER``: the part of kustomize that needs no templates: resources, namespace, labels, annotations."""

from pathlib import Path
from typing import Any

from slm_operator.cli.bounded_yaml import MAX_FILE_BYTES, parse_documents
from slm_operator.cli.documents import KUSTOMIZATION_NAMES, Document, Reading
from slm_operator.errors import InvalidManifest
from slm_operator.ports import Manifest
from slm_operator.settings import check_namespace

FIELDS = frozenset(
    {"apiVersion", "kind", "metadata", "resources", "namespace", "labels", "commonLabels", "commonAnnotations"}
)


def add_kustomization(reading: Reading, folder: Path, above: tuple[Path, ...] = ()) -> None:
    """Add the objects of a kustomization to a reading; what is wrong becomes one of its faults."""
    file = next((folder / name for name in KUSTOMIZATION_NAMES if (folder / name).is_file()), None)
    if file is None:
        reading.faults.append(f"{folder}: the folder holds no kustomization.yaml; name manifests with -f")
        return
    trail = (*above, folder.resolve())
    if trail[-1] in above:
        reading.faults.append(f"{file} (document 1): it is one of its own resources")
        return
    try:
        content = _read(file)
        resources = _check(content)
    except (InvalidManifest, OSError) as error:
        reading.faults.append(f"{file} (document 1): {error}")
        return
    first = len(reading.found)
    for name in resources:
        target = folder / name
        if target.is_dir():
            add_kustomization(reading, target, trail)
        else:
            reading.add_file(target)
    reading.found[first:] = [transform(document, content) for document in reading.found[first:]]


def _read(file: Path) -> Manifest:
    with file.open("rb") as stream:
        values = [value for _, value in parse_documents(stream.read(MAX_FILE_BYTES + 1)) if value is not None]
    if len(values) != 1 or not isinstance(values[0], dict):
        raise InvalidManifest("a kustomization is one mapping with resources")
    return values[0]


def _check(content: Manifest) -> list[str]:
    """The resources; raises InvalidManifest for what is malformed or beyond us."""
    if unknown := sorted(str(name) for name in content if name not in FIELDS):
        raise InvalidManifest(
            f"{unknown[0]} is not understood here; render it first: kubectl kustomize FOLDER | slm apply -f -"
        )
    if content.get("kind", "Kustomization") != "Kustomization":
        raise InvalidManifest(f"kind must be Kustomization, not {content['kind']!r:.60}")
    resources = content.get("resources") or []
    if not isinstance(resources, list) or not all(isinstance(name, str) for name in resources):
        raise InvalidManifest("resources must be a list of files and folders")
    if remote := next((name for name in resources if "://" in name or name.startswith("git@")), None):
        raise InvalidManifest(f"the resource {remote} is remote; fetch it and name the local folder")
    _check_namespace(content.get("namespace"))
    _metadata(content)
    return resources


def _check_namespace(namespace: Any) -> None:
    if namespace is not None and not isinstance(namespace, str):
        raise InvalidManifest("namespace must be a name")
    if namespace and (problem := check_namespace(namespace)):
        raise InvalidManifest(f"namespace: {problem}")


def _metadata(content: Manifest) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations that every object gets."""
    entries = content.get("labels") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidManifest("labels must be a list of mappings with pairs")
    labels = _words("commonLabels", content.get("commonLabels"))
    for entry in entries:
        labels |= _words("labels.pairs", entry.get("pairs"))
    return labels, _words("commonAnnotations", content.get("commonAnnotations"))


def _words(name: str, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(word, str) for pair in value.items() for word in pair):
        raise InvalidManifest(f"{name} must map words to words")
    return value


def transform(document: Document, content: Manifest) -> Document:
    """The document with the kustomization's namespace, labels and annotations."""
    meta = dict(document.manifest["metadata"])
    meta["namespace"] = content.get("namespace") or meta["namespace"]
    for field, more in zip(("labels", "annotations"), _metadata(content), strict=True):
        if more:
            meta[field] = {**(meta.get(field) or {}), **more}
    return Document(document.place, {**document.manifest, "metadata": meta})
