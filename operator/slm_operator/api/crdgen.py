"""Turns a pydantic resource into a CustomResourceDefinition (``apiextensions.k8s.io/v1``).

A structural schema is stricter than JSON schema: no references, no unions, a type everywhere, and only
the keywords that the API server knows. What cannot be said in it raises ``ValueError`` while generating,
so that a model nobody can install never reaches a cluster.
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, NoDefault
from pydantic_core import PydanticUndefined, core_schema

from slm_operator.api.described import describe
from slm_operator.api.meta import GROUP, MAX_NAME_LENGTH, VERSION, PrinterColumn, ResourceInfo

JsonSchema = dict[str, Any]

KEYWORDS: Final = [
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "items",
    "properties",
    "additionalProperties",
]
"""Keywords that may appear in a CRD, in the order they are written."""

CATEGORY: Final = "slm-all"
"""`kubectl get slm-all` lists all kinds. Not `slm`: a category hides the short name it is equal to."""

UNSEEN_STATUS: Final = {"observedGeneration": -1}
"""Status of an object that nobody looked at yet: kstatus, and so Flux, would otherwise take it for done."""

NAME_RULE: Final = {
    "rule": f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
    "message": f"metadata.name must have at most {MAX_NAME_LENGTH} characters",
}


class StructuralSchema(GenerateJsonSchema):
    """Pydantic's generator, speaking the dialect of the API server."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchema:
        """An optional field may be left out; writing null is no second way to say so."""
        return self.generate_inner(schema["schema"])

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchema:
        """Sizes exceed 32 bits."""
        return {**super().int_schema(schema), "format": "int64"}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchema:
        """The format that Kubernetes gives numbers."""
        return {**super().float_schema(schema), "format": "double"}

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        """Plain defaults and those of factories; None means that there is none."""
        default = schema.get("default", NoDefault)
        if default is NoDefault and "default_factory" in schema:
            default = schema["default_factory"]()  # type: ignore[call-arg]  # Ours take no arguments.
        return NoDefault if default is None or default is PydanticUndefined else default

    def encode_default(self, dft: Any) -> Any:
        """A nested object defaults to {}: the API server then fills in the defaults of its fields."""
        return {} if isinstance(dft, BaseModel) else super().encode_default(dft)


def build_schema(model: type[BaseModel], *, defaults: bool = True) -> JsonSchema:
    """The structural schema of a model; ``defaults=False`` for status, which nobody fills in by leaving out."""
    describe(model)
    schema = model.model_json_schema(by_alias=True, schema_generator=StructuralSchema)
    return _structural(schema, schema.get("$defs", {}), defaults=defaults)


def _structural(node: JsonSchema, definitions: dict[str, JsonSchema], *, defaults: bool) -> JsonSchema:
    """One schema node with references replaced by what they refer to, and only known keywords."""
    if "$ref" in node:
        target = definitions[str(node["$ref"]).rsplit("/", 1)[-1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    node = {key: value for key, value in node.items() if key not in ("$defs", "title")}
    _speak_dialect(node)
    if not defaults:
        node.pop("default", None)
    unknown = [key for key in node if key not in KEYWORDS and not key.startswith("x-kubernetes-")]
    if unknown:
        raise ValueError(f"a structural schema cannot hold {', '.join(unknown)}: {node}")
    return _ordered(_with_children(node, definitions, defaults=defaults))


def _speak_dialect(node: JsonSchema) -> None:
    """Say in the API server's words what JSON schema says differently."""
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)  # The extension stands for both types.
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]  # The API server prunes unknown fields, or refuses them when asked to.
    elif node.get("additionalProperties") is True:
        del node["additionalProperties"]
        node["x-kubernetes-preserve-unknown-fields"] = True


def _with_children(node: JsonSchema, definitions: dict[str, JsonSchema], *, defaults: bool) -> JsonSchema:
    """The node with its properties, items and map values made structural too."""
    node = dict(node)
    if "properties" in node:
        children: dict[str, JsonSchema] = node["properties"]
        bare = [name for name, child in children.items() if "description" not in child and "$ref" not in child]
        if bare:
            raise ValueError(f"every field needs a docstring: {', '.join(bare)}")
        node["properties"] = {
            name: _structural(child, definitions, defaults=defaults) for name, child in children.items()
        }
        if "conditions" in children:
            node["properties"]["conditions"] |= {
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _structural(node[key], definitions, defaults=defaults)
    return node


def _ordered(node: JsonSchema) -> JsonSchema:
    """Keywords in reading order, and docstrings as one line."""
    if "description" in node:
        node = {**node, "description": " ".join(str(node["description"]).split())}
    known = {key: node[key] for key in KEYWORDS if key in node}
    return known | {key: value for key, value in node.items() if key not in known}


def build_crd(info: ResourceInfo, description: str) -> dict[str, Any]:
    """The whole CustomResourceDefinition of one kind."""
    subresources: dict[str, Any] = {"status": {}}
    if info.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": info.kind,
                "listKind": f"{info.kind}List",
                "plural": info.plural,
                "singular": info.kind.lower(),
                "shortNames": info.short_names,
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [_build_column(column) for column in info.columns],
                    "schema": {"openAPIV3Schema": _build_root(info, description)},
                }
            ],
        },
    }


def _build_root(info: ResourceInfo, description: str) -> JsonSchema:
    """The schema of the object: standard fields, spec with its rules, status."""
    spec = build_schema(info.spec)
    spec["x-kubernetes-validations"] = [rule.model_dump() for rule in info.rules]
    return {
        "description": " ".join(description.split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Always slm.dev/v1alpha1.", "type": "string"},
            "kind": {"description": f"Always {info.kind}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {**build_schema(info.status, defaults=False), "default": dict(UNSEEN_STATUS)},
        },
        "x-kubernetes-validations": [dict(NAME_RULE)],
    }


def _build_column(column: PrinterColumn) -> dict[str, Any]:
    """One printer column; empty description and priority 0 are the defaults and left out."""
    shown = column.model_dump(by_alias=True, exclude_defaults=True)
    return {"name": column.name, "type": column.type} | shown
