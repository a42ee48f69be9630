"""YAML and JSON from strangers: bounded in size, depth and what its aliases expand to."""

from collections.abc import Iterator
from typing import Any

import yaml

from slm_operator.errors import InvalidManifest

MAX_FILE_BYTES = 1 << 20
"""Largest manifest file: the limit of a Kubernetes object is 1.5 MiB, and ours are a few hundred bytes."""
MAX_VALUES = 10_000
"""Most values in one document once its aliases are written out; ours hold a few dozen."""
MAX_DEPTH = 64
"""Deepest nesting; our resources have eight levels."""
MAX_NUMBER_LENGTH = 40
"""Longest number: YAML's base-60 numbers take time that grows with the square of their length."""


class BoundedLoader(yaml.SafeLoader):
    """A safe loader that refuses endless nesting, keys that stand twice and merges."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, counting depth."""
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
                raise InvalidManifest(f"line {line}: the key {name[:80]} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def _construct_text(loader: BoundedLoader, node: yaml.ScalarNode) -> str:
    return loader.construct_scalar(node)


def _construct_number(loader: BoundedLoader, node: yaml.ScalarNode) -> int | float:
    if len(node.value) > MAX_NUMBER_LENGTH:
        line = node.start_mark.line + 1
        raise InvalidManifest(f"line {line}: a number has more than {MAX_NUMBER_LENGTH} characters")
    whole = node.tag == "tag:yaml.org,2002:int"
    return loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)


BoundedLoader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)
BoundedLoader.add_constructor("tag:yaml.org,2002:int", _construct_number)
BoundedLoader.add_constructor("tag:yaml.org,2002:float", _construct_number)


def check_expansion(value: Any) -> None:
    """Raise InvalidManifest when aliases make a value too large, or part of itself."""
    left, count = [value], 0
    while left:
        count += 1
        if count + len(left) > MAX_VALUES:
            raise InvalidManifest(f"it holds more than {MAX_VALUES:,} values once its aliases are written out")
        current = left.pop()
        if isinstance(current, dict):
            left.extend(current.values())
        elif isinstance(current, list):
            left.extend(current)


def parse_documents(data: bytes) -> Iterator[tuple[int, Any]]:
    """Documents, None for empty ones, with their numbers from 1; raises InvalidManifest at the first broken one."""
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
        for number, value in enumerate(yaml.load_all(text, BoundedLoader), start=1):
            check_expansion(value)
            yield number, value
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidManifest(f"it is not YAML: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    """Where and what, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).splitlines()[0]
    mark = error.problem_mark or error.context_mark
    spot = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    tab = "; YAML is indented with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
    return f"{spot}{error.problem}{tab}"
