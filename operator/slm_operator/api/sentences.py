"""What is wrong with a manifest, in sentences: which field, what it must be, and what stands there instead."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

LIKE = 0.8
"""How alike two names must be for a field elsewhere in the manifest to be what was meant: a slip, not another word."""
SHOWN_LENGTH = 60
"""Characters of a wrong value that are repeated: enough to find it again."""

LETTERS = "lower-case letters, digits"
PATTERNS: Mapping[str, str] = {
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": f"consist of {LETTERS}, - and ., with a letter or digit at both ends",
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": f"consist of {LETTERS} and -, with a letter or digit at both ends",
    r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$": "be a quantity such as 500m, 2, 1.5Gi or 800M",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$": "be written as owner/name",
    r"^(https?://.+)?$": "begin with http:// or https://",
    r"^(auto|none|gpu|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$": (
        "be auto, none, gpu, or the resource that pods ask for, such as nvidia.com/gpu or deviceclass/gpu.nvidia.com"
    ),
    r"^/": "be an absolute path: one that begins with /",
    r"^sha256:[0-9A-Fa-f]{64}$": "be sha256: and 64 hexadecimal digits",
}
"""Pattern of a field to what it asks for; tests hold it against the patterns that the resources have."""

TYPES: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""Error type of pydantic to what the value must be."""
COUNTED: Mapping[str, str] = {"string_too_long": "characters", "too_long": "entries"}
"""Error type of pydantic to what there is too much of."""


def describe_error(item: Any, model: type[BaseModel]) -> str:
    """One pydantic error as a sentence that starts with the field."""
    place = ".".join(str(part) for part in item["loc"])
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "missing":
        return f"{place} is required"
    if kind == "extra_forbidden":
        return f"{place} is no known field{suggest_field(model, item['loc'])}"
    if kind in TYPES:
        quoted = f": put it in quotes, {str(value).lower()!r}" if kind == "string_type" and _is_scalar(value) else ""
        return f"{place} must be {TYPES[kind]}, not {_show(value)}{quoted}"
    if kind in COUNTED:
        return f"{place} must have at most {context['max_length']} {COUNTED[kind]}, not {len(value)}"
    if kind in RULES:
        rule = RULES[kind](context)
        return f"{place} must {rule}" + (f", not {_show(value)}" if value != "" else "")
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place and not message.startswith("spec") else message


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float)


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'a mapping' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


def _pattern(context: Mapping[str, Any]) -> str:
    return PATTERNS.get(context["pattern"], f"match {context['pattern']}")


def _number(value: float) -> str:
    return str(int(value) if value == int(value) else value)


def _choice(context: Mapping[str, Any]) -> str:
    return f"be {str(context['expected']).replace(chr(39), '')}"


def _at_least(context: Mapping[str, Any]) -> str:
    least = context["min_length"]
    return "not be empty" if least == 1 else f"have at least {least} characters"


RULES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "literal_error": _choice,
    "string_pattern_mismatch": _pattern,
    "string_too_short": _at_least,
    "greater_than_equal": lambda context: f"be {_number(context['ge'])} or more",
    "less_than_equal": lambda context: f"be {_number(context['le'])} or less",
    "finite_number": lambda _: "be a finite number",
}
"""Error type of pydantic to what the value must do."""


def suggest_field(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """What an unknown field may mean: one beside it, spelled alike or longer, else one of that name elsewhere."""
    name, beside = str(place[-1]), known_fields(model, place[:-1])
    longer = [each for each in beside if each.startswith(name)]
    if near := get_close_matches(name, beside, 1) or longer:
        return f": did you mean {' or '.join(near)}?"
    elsewhere = list(walk_fields(model))
    if alike := get_close_matches(name, {path[-1] for path in elsewhere}, 1, LIKE):
        paths = [".".join(path) for path in elsewhere if path[-1] == alike[0]]
        return f": did you mean {' or '.join(paths)}?"
    return ""


def known_fields(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Names of the fields that an object at a place of the model may have; empty where it is no model."""
    for part in place:
        inner = next((each for name, each in _members(model) if part == name), None)
        if inner is None:
            return []
        model = inner
    return _names(model)


def walk_fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field that a manifest may hold; a status is not for people to write."""
    for name in _names(model):
        if (*above, name) != ("status",):
            yield (*above, name)
    for name, inner in _members(model):
        if (*above, name) != ("status",):
            yield from walk_fields(inner, (*above, name))


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _members(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields that are models themselves."""
    for name, field in model.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        if found := next((each for each in types if isinstance(each, type) and issubclass(each, BaseModel)), None):
            yield field.alias or name, found
