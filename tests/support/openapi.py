"""JSON schemas for kubeconform out of a real API server's OpenAPI: nothing is fetched from anywhere else."""

import json
from pathlib import Path
from typing import Any

from dev.cluster.cluster import Cluster

Schema = dict[str, Any]
TEMPLATE = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
"""File name of a kind's schema, as kubeconform asks for it."""
KIND = "x-kubernetes-group-version-kind"
ANY = "x-kubernetes-preserve-unknown-fields"


def write_schemas(cluster: Cluster, folder: Path) -> str:
    """A file for each kind that the server knows; returns kubeconform's ``-schema-location``."""
    paths = json.loads(cluster.kubectl("get", "--raw", "/openapi/v3"))["paths"]
    for name, entry in paths.items():
        if name.startswith(("api/", "apis/")) and name.count("/") == (1 if name.startswith("api/") else 2):
            schemas = json.loads(cluster.kubectl("get", "--raw", entry["serverRelativeURL"])).get("components", {})
            _write_kinds(schemas.get("schemas", {}), folder)
    return f"{folder}/{TEMPLATE}"


def _write_kinds(schemas: dict[str, Schema], folder: Path) -> None:
    strict = {name: close(schema) for name, schema in schemas.items()}
    for name, schema in strict.items():
        for kind in schema.get(KIND, ()) if "metadata" in schema.get("properties", {}) else ():
            parts = [kind["kind"], *([kind["group"].split(".")[0]] if kind["group"] else []), kind["version"]]
            document = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": strict}}
            (folder / f"{'-'.join(parts).lower()}.json").write_text(json.dumps(document))


def close(schema: Any) -> Any:
    """The schema with unknown fields refused, as the server does with strict validation."""
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: close(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get(ANY) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made
