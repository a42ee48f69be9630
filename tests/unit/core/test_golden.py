"""Manifests in, children out, as YAML that people can read: tests/golden/cluster/{input,output}.

``make golden-cluster`` writes the output anew; read the difference before it is committed.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.generate import BlockDumper
from slm_operator.adapters.kube_kinds import PUBLISHED
from tests.support.memory_cluster import OURS, Operated, with_adapters
from tests.support.planning import QWEN3, succeed, succeed_as

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "cluster"
NAMES = sorted(path.stem for path in (GOLDEN / "input").glob("*.yaml"))
CHILDREN = (
    *("PersistentVolumeClaim", "NetworkPolicy", "Job", "ResourceClaimTemplate"),
    *("Deployment", "Service", "PodDisruptionBudget"),
)


def readable(manifest: dict[str, Any]) -> dict[str, Any]:
    """A child without what only the cluster in memory gave it."""
    given = ("uid", "resourceVersion", "generation", "creationTimestamp")
    meta = {name: value for name, value in manifest["metadata"].items() if name not in given}
    return {name: value for name, value in {**manifest, "metadata": meta}.items() if name != "status"}


async def build_children(documents: list[dict[str, Any]]) -> str:
    """All children of the documents once everything has succeeded, as YAML."""
    made = Operated()
    await made.put(*documents)
    repo = documents[0]["spec"]["source"]["huggingFace"]["repo"]
    await made.settle(with_adapters(made, succeed_as(repo) if repo.removesuffix("-AWQ") in QWEN3 else succeed))
    objects = made.cluster.objects
    children = [readable(objects[key]) for kind in CHILDREN for key in objects if key.kind == kind]
    return yaml.dump_all(children, Dumper=BlockDumper, sort_keys=False, width=120, allow_unicode=True)


@pytest.mark.parametrize("name", NAMES)
async def test_children_are_the_golden_ones(name: str) -> None:
    documents = list(yaml.safe_load_all((GOLDEN / "input" / f"{name}.yaml").read_text()))
    made, expected = await build_children(documents), GOLDEN / "output" / f"{name}.yaml"
    if os.environ.get("SLM_WRITE_GOLDEN"):
        expected.write_text(made)
    assert expected.read_text() == made


def test_every_kind_has_a_golden_pair() -> None:
    inputs = [list(yaml.safe_load_all((GOLDEN / "input" / f"{name}.yaml").read_text())) for name in NAMES]
    assert {document["kind"] for documents in inputs for document in documents} == {*OURS, *PUBLISHED}
    assert {path.stem for path in (GOLDEN / "output").glob("*.yaml")} == set(NAMES)
