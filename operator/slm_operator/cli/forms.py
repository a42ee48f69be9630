"""Values as YAML or JSON for programs, where a table is for people."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml


class Form(StrEnum):
    """Forms of what is no object and therefore has no name to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


FormOption = Annotated[Form, typer.Option("-o", "--output", help="Form of the output.")]
"""The -o of commands that print figures rather than objects."""


def render_yaml(value: Any) -> str:
    """YAML in the order of the value."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def render_json(value: Any) -> str:
    """JSON that people can read too."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def render_form(value: Any, form: Form) -> str:
    """The value as YAML or JSON."""
    return render_json(value) if form is Form.JSON else render_yaml(value).rstrip()


def render_items(items: list[dict[str, Any]], form: Form) -> str:
    """A list as programs expect it: below ``items``, also when it is empty."""
    return render_form({"items": items}, form)
