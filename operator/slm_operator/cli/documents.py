"""Manifests from files, folders and standard input: read with limits, validated all together."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slm_operator.api.registry import parse_resource
from slm_operator.errors import InvalidManifest
from slm_operator.ports import Manifest, ObjectKey

MAX_FILE_BYTES = 1 << 20
"""Largest manifest file: the limit of a Kubernetes object is 1.5 MiB, and ours are a few hundred bytes."""
MAX_ALIASES = 100
"""Most YAML aliases in a file. Nine levels of nine aliases are enough for a billion nodes."""
MAX_DEPTH = 64
"""Deepest nesting; our resources have eight levels."""
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


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


class BoundedLoader(yaml.SafeLoader):
    """A safe loader that refuses alias bombs, endless nesting and keys that stand twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, counting aliases and depth."""
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise InvalidManifest(f"it uses more than {MAX_ALIASES} YAML aliases: write the values out")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidManifest(f"it is nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping without double keys and merges, which would copy aliased content."""
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            line = key.start_mark.line + 1
            if name is None or key.tag == "tag:yaml.org,2002:merge":
                raise InvalidManifest(f"line {line}: keys must be plain words, not merges or lists")
            if name in seen:
                raise InvalidManifest(f"line {line}: the key {name} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def _construct_text(loader: BoundedLoader, node: yaml.ScalarNode) -> str:
    return loader.construct_scalar(node)


BoundedLoader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)


def read_documents(sources: Sequence[str], namespace: str) -> list[Document]:
    """Every object of the files, folders and ``-`` named; raises InvalidManifest with one line per fault."""
    found: list[Document] = []
    faults: list[str] = []
    for source in sources:
        for place, data in _read(source, faults):
            _collect(place, data, namespace, found, faults)
    places: dict[ObjectKey, str] = {}
    for document in found:
        if document.key in places:
            faults.append(f"{document.place}: {document.key} stands already in {places[document.key]}")
        places.setdefault(document.key, document.place)
    if not found and not faults:
        faults.append(f"no object in {', '.join(sources)}")
    if faults:
        raise InvalidManifest("nothing was changed, because:\n  " + "\n  ".join(faults))
    return found


def _read(source: str, faults: list[str]) -> Iterator[tuple[str, bytes]]:
    """Place and content of each file, at most one byte more than allowed of each."""
    if source == "-":
        yield "standard input", sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        return
    path = Path(source)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())
        if not files:
            faults.append(f"{source}: the folder holds no .yaml, .yml or .json file")
    else:
        files = [path]
    for file in files:
        try:
            with file.open("rb") as stream:
                yield str(file), stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            faults.append(f"{file}: it cannot be read: {error.strerror}")


def _collect(place: str, data: bytes, namespace: str, found: list[Document], faults: list[str]) -> None:
    """Parse and validate one file's documents into ``found``, or say in ``faults`` what is wrong."""
    try:
        values = parse_documents(data)
    except InvalidManifest as error:
        faults.append(f"{place}: {error}")
        return
    for number, value in enumerate(values, start=1):
        where = f"{place} (document {number})" if len(values) > 1 else place
        try:
            found.extend(Document(where, each) for each in _validate(value, namespace))
        except InvalidManifest as error:
            faults.append(f"{where}: {error}")


def parse_documents(data: bytes) -> list[Any]:
    """YAML or JSON documents, empty ones left out; raises InvalidManifest."""
    if len(data) > MAX_FILE_BYTES:
        raise InvalidManifest(f"it is larger than {MAX_FILE_BYTES >> 20} MiB, which no manifest needs; is it a model?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise InvalidManifest(
            f"it is not UTF-8: byte 0x{byte:02x} at offset {error.start}; save it as UTF-8"
        ) from error
    try:
        return [value for value in yaml.load_all(text, BoundedLoader) if value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        spot = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        tab = "; YAML is indented with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
        raise InvalidManifest(f"it is not YAML: {spot}{error.problem}{tab}") from error
    except yaml.YAMLError as error:
        raise InvalidManifest(f"it is not YAML: {str(error).splitlines()[0]}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"it is not YAML: {error}") from error


def _validate(value: Any, namespace: str) -> Iterator[Manifest]:
    if not isinstance(value, dict):
        raise InvalidManifest(f"a manifest is a mapping with apiVersion, kind, metadata and spec, not {value!r:.60}")
    if value.get("kind") == "List" and isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from _validate(item, namespace)
        return
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
