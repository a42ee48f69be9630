"""Two manifests that mean the same source are the same, however much of it they spell out."""

from pathlib import Path
from typing import Any

import pytest

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.documents import Document
from slm_operator.cli.identity import identity_of
from slm_operator.cli.naming import build_model, build_quant_job, parse_model
from slm_operator.cli.placing import find_free_name
from slm_operator.cli.writing import check_immutable


def hub_model(**source: Any) -> dict[str, Any]:
    return build_model("tiny", "default", {"huggingFace": {"repo": "acme/tiny", **source}})


SPELLED_OUT = hub_model(revision="main", allowPatterns=[], endpoint="")


def test_a_default_that_is_spelled_out_changes_no_source() -> None:
    assert check_immutable(hub_model(), Document("a.yaml", SPELLED_OUT)) is None
    assert check_immutable(SPELLED_OUT, Document("a.yaml", hub_model())) is None


def test_another_revision_is_another_source() -> None:
    assert check_immutable(hub_model(), Document("a.yaml", hub_model(revision="v1"))) == (
        "a.yaml: spec.source is immutable: delete slmmodel.slm.dev/tiny or choose another name"
    )


def test_another_model_is_another_quantjob_and_another_variant_is_not() -> None:
    job = build_quant_job("job", "default", "tiny", "Q8_0")
    assert check_immutable(job, Document("a.yaml", build_quant_job("job", "default", "tiny", "Q4_0"))) is None
    message = check_immutable(job, Document("a.yaml", build_quant_job("job", "default", "other", "Q8_0")))
    assert message == "a.yaml: spec.modelRef is immutable: delete quantjob.slm.dev/job or choose another name"


def test_what_an_older_version_stored_is_compared_as_it_is() -> None:
    assert identity_of({"kind": "SLMModel", "metadata": {"name": "a"}, "spec": {"source": {"ftp": 1}}}) == {"ftp": 1}


@pytest.mark.parametrize(("stored", "name"), [(SPELLED_OUT, "tiny"), (hub_model(revision="v1"), "acme-tiny")])
async def test_a_model_of_the_same_source_is_found_again(tmp_path: Path, stored: dict[str, Any], name: str) -> None:
    cluster = SqliteCluster(tmp_path / "objects.db")
    await cluster.apply(stored)
    assert await find_free_name(cluster, parse_model("acme/tiny"), "default") == name
    cluster.close()
