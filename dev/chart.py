"""What of charts/ and deploy/ follows from something else: CRDs from crds/; README and schema from values.yaml.

The comment right above a value is its documentation. In it, a line ``@schema {...}`` holds JSON schema keywords that
the default does not show by itself, and ``## Title`` at the margin begins a section of the README.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from slm_operator.api.meta import GROUP
from slm_operator.api.registry import INFOS

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "slm-operator"
FOLDER = "charts/slm-operator"
CRD_FOLDER = f"{FOLDER}/templates/crds"
PLAIN_CRD_FOLDER = "deploy/kustomize/crds"
"""Copies: a kustomization takes no file from outside its folder."""
HEALTH = "deploy/argocd/argocd-cm.yaml"
FILES = (f"{FOLDER}/README.md", f"{FOLDER}/values.schema.json", HEALTH)
BEGIN, END = "<!-- values:begin -->", "<!-- values:end -->"
BLOCK = re.compile(f"{BEGIN}\n.*{END}", re.DOTALL)
SCHEMA_MARK = "@schema "
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
HEALTH_HEAD = """\
# Generated from health.lua by `make generate`.
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
  labels:
    app.kubernetes.io/part-of: argocd
data:
"""
CRD_HEAD = """\
{{- /* Generated from crds/ by `make generate`. */}}
{{- if .Values.crds.install }}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %s
  labels:
    {{- include "slm-operator.commonLabels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


@dataclass(frozen=True)
class Value:
    """One value, or a group of values."""

    path: str
    """Dotted, as in ``--set``."""
    default: Any
    text: str
    """What its comment says, as one line."""
    keywords: Mapping[str, Any]
    """JSON schema keywords of the comment."""
    section: str
    children: tuple["Value", ...] = field(default=())
    """Values of a group. A map whose keys the user chooses has none: its comment says ``additionalProperties``."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit(".", 1)[-1]


def render_chart(crds: Mapping[str, str]) -> dict[str, str]:
    """Path below the root to content; ``crds`` are the rendered CRDs by file name."""
    values = read_values((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    if not BLOCK.search(readme):
        raise ValueError(f"{FOLDER}/README.md has no {BEGIN} … {END}")
    files = {f"{CRD_FOLDER}/{name}": render_crd_template(text) for name, text in crds.items()}
    files |= {f"{PLAIN_CRD_FOLDER}/{name}": text for name, text in crds.items()}
    files[f"{FOLDER}/README.md"] = BLOCK.sub(lambda _: f"{BEGIN}\n{render_tables(values)}{END}", readme)
    files[f"{FOLDER}/values.schema.json"] = json.dumps(build_schema(values), indent=2, ensure_ascii=False) + "\n"
    files[HEALTH] = render_health((ROOT / "deploy" / "argocd" / "health.lua").read_text(encoding="utf-8"))
    return files


def render_health(script: str) -> str:
    """The script for each kind, as Argo CD's ConfigMap wants it."""
    indented = textwrap.indent(script, "    ")
    return HEALTH_HEAD + "".join(f"  resource.customizations.health.{GROUP}_{kind}: |\n{indented}" for kind in INFOS)


def render_crd_template(crd: str) -> str:
    """A CRD as a template: its own text, with our labels, and what makes Helm leave it where it is."""
    name = str(yaml.safe_load(crd)["metadata"]["name"])
    spec = crd[crd.index("\nspec:\n") + 1 :].replace("{{", '{{ "{{" }}')
    return CRD_HEAD % name + spec + "{{- end }}\n"


def read_values(text: str) -> tuple[Value, ...]:
    """Values with their comments; raises ValueError for one that says nothing about itself."""
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("values.yaml must be a map")  # noqa: TRY004 - the file's content is wrong, not a type
    return tuple(_read_map(root, yaml.safe_load(text), lines, ""))


def _read_map(node: yaml.MappingNode, defaults: Mapping[str, Any], lines: list[str], prefix: str) -> Iterator[Value]:
    for key, child in node.value:
        path = f"{prefix}{key.value}"
        text, keywords = _read_comment(lines, key.start_mark.line)
        is_group = isinstance(child, yaml.MappingNode) and "additionalProperties" not in keywords
        default = defaults[key.value]
        children = tuple(_read_map(child, default, lines, f"{path}.")) if is_group else ()
        if not text and not is_group:
            raise ValueError(f"values.yaml: {path} has no comment")
        yield Value(path, default, text, keywords, _section_of(lines, key.start_mark.line), children)


def _read_comment(lines: list[str], number: int) -> tuple[str, dict[str, Any]]:
    """Text and schema keywords of the comment that ends right above a line."""
    words: list[str] = []
    keywords: dict[str, Any] = {}
    first = number
    while first and lines[first - 1].lstrip().startswith("# "):
        first -= 1
    for line in lines[first:number]:
        content = line.strip().removeprefix("# ")
        if content.startswith(SCHEMA_MARK):
            keywords |= yaml.safe_load(content.removeprefix(SCHEMA_MARK))
        else:
            words.append(content)
    return " ".join(words), keywords


def _section_of(lines: list[str], number: int) -> str:
    return next((line[3:] for line in reversed(lines[:number]) if line.startswith("## ")), "")


def build_schema(values: tuple[Value, ...]) -> dict[str, Any]:
    """JSON schema of all values: a key that is not in values.yaml is refused."""
    # Helm hands `global` to a chart that another chart depends on.
    shared = {"global": {"description": "Values of a parent chart; this chart reads none.", "type": "object"}}
    properties = {value.name: _schema_of(value) for value in values} | shared
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart slm-operator",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _schema_of(value: Value) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": value.text} if value.text else {}
    if type(value.default) not in TYPES:
        raise ValueError(f"values.yaml: {value.path} must have a default that shows its type, not null")
    schema["type"] = TYPES[type(value.default)]
    if value.children:
        schema["additionalProperties"] = False
        schema["properties"] = {child.name: _schema_of(child) for child in value.children}
    return {**schema, **value.keywords}


def render_tables(values: tuple[Value, ...]) -> str:
    """A table per section of the README."""
    lines: list[str] = []
    for section in dict.fromkeys(value.section for value in values):
        lines += ["", f"### {section}", ""]
        lines += [f"{value.text}\n" for value in values if value.section == section and value.children and value.text]
        lines += ["| value | default | effect |", "|---|---|---|"]
        lines += [_row(leaf) for value in values if value.section == section for leaf in _leaves(value)]
    return "\n".join([*lines[1:], "", ""])


def _leaves(value: Value) -> Iterator[Value]:
    if not value.children:
        yield value
    for child in value.children:
        yield from _leaves(child)


def _row(value: Value) -> str:
    default, text = (each.replace("|", "\\|") for each in (json.dumps(value.default), value.text))
    return f"| `{value.path}` | `{default}` | {text} |"
