"""Manifests from files, folders and standard input: read with limits, validated all together."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_operator.api.registry import parse_resource
from slm_operator.cli.bounded_yaml import MAX_FILE_BYTES, parse_documents
from slm_operator.errors import InvalidManifest
from slm_operator.ports import Manifest, ObjectKey

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
KUSTOMIZATION_NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
"""What describes a folder's manifests rather than being one; ``-f FOLDER`` passes over it."""
STANDARD_INPUT = "standard input"
MAX_FAULT_LENGTH = 600
"""Characters of one fault that are printed: the first broken rules are what a person mends first."""


@dataclass(frozen=True)
class Document:
    """One valid manifest and where it stands."""

    place: str
    manifest: Manifest

    @property
    def key(self) -> ObjectKey:
        """Identity of the object."""
        meta = self.manifest["metadata"]
        return ObjectKey(self.manifest["kind"], meta["namespace"], meta["name"])


@dataclass
class Reading:
    """What was found so far, and all that is wrong with it."""

    namespace: str
    """Namespace of objects that name none."""
    found: list[Document] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add_source(self, source: str, *, recursive: bool = False) -> None:
        """Read a file, a folder or ``-``."""
        if source == "-":
            self.add_data(STANDARD_INPUT, sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
            return
        path = Path(source)
        if not path.is_dir():
            self.add_file(path)
            return
        files = sorted(each for each in path.glob("**/*" if recursive else "*") if _is_manifest(each))
        if not files:
            self.faults.append(f"{source}: the folder holds no .yaml, .yml or .json file; -R looks into subfolders")
        for file in files:
            self.add_file(file)

    def add_file(self, file: Path) -> None:
        """Read one file, at most one byte more than allowed."""
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self.faults.append(f"{file}: it cannot be read: {error.strerror}")
            return
        self.add_data(str(file), data)

    def add_data(self, place: str, data: bytes) -> None:
        """Parse and validate the documents of one file."""
        number = 0
        try:
            for number, value in parse_documents(data):
                if value is not None:
                    self._add_value(f"{place} (document {number})", value)
        except InvalidManifest as error:
            self._add_fault(f"{place} (document {number + 1})", error)

    def _add_value(self, place: str, value: Any) -> None:
        try:
            self.found.extend(Document(place, each) for each in _validate(value, self.namespace))
        except InvalidManifest as error:
            self._add_fault(place, error)

    def _add_fault(self, place: str, error: InvalidManifest) -> None:
        text = str(error)
        self.faults.append(f"{place}: {text[:MAX_FAULT_LENGTH]}{'…' if len(text) > MAX_FAULT_LENGTH else ''}")

    def finish(self, asked: Sequence[str]) -> list[Document]:
        """Every object; raises InvalidManifest with one line per fault."""
        places: dict[ObjectKey, str] = {}
        for document in self.found:
            if document.key in places:
                self.faults.append(f"{document.place}: {document.key} stands already in {places[document.key]}")
            places.setdefault(document.key, document.place)
        if not self.found and not self.faults:
            places_asked = ", ".join(STANDARD_INPUT if each == "-" else each for each in asked)
            self.faults.append(f"no object in {places_asked}")
        if self.faults:
            raise refusal(self.faults)
        return self.found


def refusal(faults: Sequence[str]) -> InvalidManifest:
    """One line for one fault, one more line for each of several."""
    if len(faults) == 1:
        return InvalidManifest(f"{faults[0]} (nothing was changed)")
    return InvalidManifest(f"nothing was changed, for {len(faults)} reasons:\n  " + "\n  ".join(faults))


def _is_manifest(path: Path) -> bool:
    return path.suffix in SUFFIXES and path.name not in KUSTOMIZATION_NAMES and path.is_file()


def read_documents(sources: Sequence[str], namespace: str, *, recursive: bool = False) -> list[Document]:
    """Every object of the files, folders and ``-`` named; raises InvalidManifest with one line per fault."""
    reading = Reading(namespace)
    for source in sources:
        reading.add_source(source, recursive=recursive)
    return reading.finish(sources)


def _validate(value: Any, namespace: str) -> Iterator[Manifest]:
    if not isinstance(value, dict):
        raise InvalidManifest(f"a manifest is a mapping with apiVersion, kind, metadata and spec, not {value!r:.60}")
    if value.get("kind") == "List" and isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from _validate(item, namespace)
        return
    if value.get("kind") == "Kustomization":
        raise InvalidManifest("this is a kustomization: name its folder with -k instead of -f")
    meta = value.get("metadata")
    if isinstance(meta, dict):
        value = {**value, "metadata": {**meta, "namespace": meta.get("namespace") or namespace}}
    # What the server gives belongs to what `slm get -o yaml` printed, not to what is wanted.
    wanted = {name: part for name, part in value.items() if name != "status"}
    if "apiVersion" not in wanted:
        raise InvalidManifest("apiVersion is missing: write slm.dev/v1alpha1")
    parse_resource(wanted)
    try:
        yield json.loads(json.dumps(wanted, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidManifest(f"it holds a value that JSON does not know: {error}") from error
