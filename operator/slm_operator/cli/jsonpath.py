"""The part of Kubernetes' JSONPath that printer columns use: ``.a.b``, ``[0]``, ``[?(@.type=="Ready")]``."""

import re
from functools import lru_cache
from typing import Any

_STEP = re.compile(
    r"""\.(?P<name>(?:\\.|[^.\[\\])+)"""
    r"""|\[(?P<index>\d+)\]"""
    r"""|\[\?\(@\.(?P<key>\w+)==["'](?P<value>[^"']*)["']\)\]"""
)


@lru_cache
def _parse(path: str) -> tuple[dict[str, str | None], ...]:
    steps, position = [], 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise ValueError(f"{path!r} is not a path we understand: see {path[position:]!r}")
        steps.append(match.groupdict())
        position = match.end()
    return tuple(steps)


def evaluate(path: str, value: Any) -> Any:
    """What the path leads to, or None; raises ValueError for a path of another form."""
    for step in _parse(path):
        value = _walk(step, value)
    return value


def _walk(step: dict[str, str | None], value: Any) -> Any:
    name, index, key = step["name"], step["index"], step["key"]
    if name is not None:
        return value.get(name.replace("\\", "")) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return None
    if index is not None:
        return value[int(index)] if int(index) < len(value) else None
    return next((item for item in value if isinstance(item, dict) and item.get(key) == step["value"]), None)
