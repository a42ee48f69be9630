"""The CRDs are structural, as an API server demands, and bounded, so that it can tell what their rules cost."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from dev import generate
from slm_contract.base import Message
from slm_operator.api.crdgen import KEYWORDS, UNSEEN_STATUS, build_crd, build_schema
from slm_operator.api.registry import INFOS, KINDS

ROOT = Path(__file__).resolve().parents[3]
Schema = dict[str, Any]
EXTENSIONS = {
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
}
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
FORMATS = {"integer": {"int64"}, "number": {"double"}}


def crd(kind: str) -> Any:
    return build_crd(INFOS[kind], KINDS[kind].__doc__ or "")


def version(kind: str) -> Schema:
    found: Schema = crd(kind)["spec"]["versions"][0]
    return found


def root_schema(kind: str) -> Schema:
    found: Schema = version(kind)["schema"]["openAPIV3Schema"]
    return found


def walk(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from walk(node[key], f"{path}[]")


NODES = [(kind, path, node) for kind in INFOS for path, node in walk(root_schema(kind), "")]
every_kind = pytest.mark.parametrize("kind", INFOS)


def named(path: str) -> Iterator[tuple[str, Schema]]:
    return ((f"{kind}{where}", node) for kind, where, node in NODES if where.startswith(path))


def test_every_node_has_a_type_or_is_an_integer_or_string() -> None:
    for path, node in named(""):
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node, path
        else:
            assert node["type"] in TYPES, path


def test_only_keywords_of_structural_schemas_occur() -> None:
    for path, node in named(""):
        unknown = set(node) - set(KEYWORDS) - EXTENSIONS
        assert not unknown, f"{path}: {unknown}"  # Among them $ref, anyOf, oneOf, title and preserve-unknown-fields.


def test_objects_lists_and_maps_are_complete() -> None:
    for path, node in named(""):
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", [])) <= set(node.get("properties", {})), path
        assert ("items" in node) == (node.get("type") == "array"), path
        assert set(filter(None, [node.get("format")])) <= FORMATS.get(node.get("type", ""), set()), path


def test_every_default_is_valid_where_it_stands() -> None:
    for path, node in named(""):
        if "default" not in node:
            continue
        value = node["default"]
        assert isinstance(value, TYPES[node["type"]]), path
        assert value in node.get("enum", [value]), path
        assert not isinstance(value, str) or re.search(node.get("pattern", ""), value), path
        assert not isinstance(value, int) or node.get("minimum", value) <= value <= node.get("maximum", value), path


def test_an_object_that_defaults_to_nothing_needs_nothing() -> None:
    assert not [path for path, node in named(".spec") if node.get("default") == {} and node.get("required")]


def test_a_status_has_no_defaults_but_that_nobody_looked_yet() -> None:
    assert not [path for path, node in named(".status.") if "default" in node]
    assert [node["default"] for path, node in named(".status") if "default" in node] == [UNSEEN_STATUS] * len(INFOS)


def test_everything_a_user_writes_is_bounded() -> None:
    for path, node in named(".spec"):
        kind = "string" if node.get("x-kubernetes-int-or-string") else node["type"]
        bounds = {"string": "maxLength", "array": "maxItems"}
        assert kind not in bounds or "enum" in node or bounds[kind] in node, path
        assert "additionalProperties" not in node or "maxProperties" in node, path


def test_every_pattern_compiles() -> None:
    for _, node in named(""):
        re.compile(node.get("pattern", ""))


def test_quantities_may_be_whole_numbers_or_strings() -> None:
    found = {path for path, node in named(".spec") if node.get("x-kubernetes-int-or-string")}
    assert found == {
        "QuantJob.spec.goal.maxMemory",
        *(
            f"{kind}.spec.resources.{name}[]"
            for kind in ("QuantJob", "InferenceService")
            for name in ("requests", "limits")
        ),
    }


@every_kind
def test_every_field_is_described(kind: str) -> None:
    for part in ("spec", "status"):
        for path, node in walk(root_schema(kind)["properties"][part], part):
            assert node.get("description") or path.endswith("[]"), f"{kind}.{path}"


@every_kind
def test_conditions_are_a_map_by_type(kind: str) -> None:
    conditions = root_schema(kind)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "type" in conditions["items"]["required"]


@every_kind
def test_the_rules_of_the_models_are_the_rules_of_the_crd(kind: str) -> None:
    rules = root_schema(kind)["properties"]["spec"]["x-kubernetes-validations"]
    assert rules == [rule.model_dump() for rule in INFOS[kind].rules]
    assert root_schema(kind)["x-kubernetes-validations"][0]["rule"] == "size(self.metadata.name) <= 52"


@every_kind
def test_a_rule_reads_optional_fields_only_after_asking_for_them(kind: str) -> None:
    spec = root_schema(kind)["properties"]["spec"]
    for rule in INFOS[kind].rules:
        for read in re.finditer(r"(?<!has\()self\.(\w+)", rule.rule):
            given = read[1] in spec.get("required", []) or "default" in spec["properties"][read[1]]
            assert given or f"!has(self.{read[1]}) || " in rule.rule[: read.start()], rule.rule


def field_at(schema: Schema, json_path: str) -> Schema:
    for name in re.sub(r"\[[^]]*\]", "[]", json_path).strip(".").split("."):
        schema = schema["properties"][name.removesuffix("[]")]
        schema = schema["items"] if name.endswith("[]") else schema
    return schema


@every_kind
def test_every_column_shows_a_field_of_its_type(kind: str) -> None:
    for column in version(kind)["additionalPrinterColumns"]:
        if column["jsonPath"].startswith(".metadata"):
            assert column["type"] == "date"
        else:
            assert field_at(root_schema(kind), column["jsonPath"])["type"] == column["type"], column


def test_the_scale_subresource_points_at_fields_that_exist() -> None:
    scale = version("InferenceService")["subresources"]["scale"]
    types = [field_at(root_schema("InferenceService"), path)["type"] for path in scale.values()]
    assert types == ["integer", "integer", "string"]
    assert all("scale" not in version(kind)["subresources"] for kind in ("SLMModel", "QuantJob"))


def test_names_are_unambiguous() -> None:
    names = [crd(kind)["spec"]["names"] for kind in INFOS]
    words = [word for each in names for word in (each["singular"], each["plural"], *each["shortNames"])]
    assert len(words) == len(set(words))
    assert not {category for each in names for category in each["categories"]} & set(words)


@every_kind
def test_each_crd_is_named_after_plural_and_group_and_has_a_status(kind: str) -> None:
    whole = crd(kind)
    assert whole["metadata"]["name"] == f"{whole['spec']['names']['plural']}.{whole['spec']['group']}"
    assert version(kind)["subresources"]["status"] == {}
    assert (version(kind)["served"], version(kind)["storage"]) == (True, True)


class Union(Message):
    either: int | list[str] = 0
    """Two types."""


class Bare(Message):
    silent: int = 0


class Anything(Message):
    objects: list[dict[str, Any]] = Field(default_factory=list)
    """Objects of any shape."""


def test_a_model_that_no_api_server_takes_is_refused_while_generating() -> None:
    with pytest.raises(ValueError, match="a structural schema cannot hold anyOf"):
        build_schema(Union)


def test_a_field_without_a_docstring_is_refused_while_generating() -> None:
    with pytest.raises(ValueError, match="every field needs a docstring: silent"):
        build_schema(Bare)


def test_only_free_objects_keep_unknown_fields() -> None:
    items = build_schema(Anything)["properties"]["objects"]["items"]
    assert items == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def test_the_files_are_what_is_generated() -> None:
    assert generate.compare_all(ROOT) == ""
    for info in INFOS.values():
        assert yaml.safe_load((ROOT / "crds" / f"{info.plural}.yaml").read_text()) == crd(info.kind)


def test_check_shows_the_difference_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    changed, stale = tmp_path / "crds/quantjobs.yaml", tmp_path / "docs/reference/stale.md"
    changed.write_text(changed.read_text().replace("quantjobs.slm.dev", "other.slm.dev"))
    stale.write_text("gone\n")
    capsys.readouterr()
    assert generate.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().out
    assert "-  name: other.slm.dev\n+  name: quantjobs.slm.dev\n" in said
    assert "--- docs/reference/stale.md" in said
    assert said.endswith("run make generate\n")
    assert stale.exists()
    assert generate.main([], tmp_path) == 0
    assert not stale.exists()
    assert generate.main(["--check"], tmp_path) == 0
