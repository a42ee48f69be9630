"""What `slm run` finds is used as it is; only what it made itself does it change, and only when told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.documents import Document
from slm_operator.cli.exits import CommandFailed
from slm_operator.cli.naming import MADE_BY, build_model, build_quant_job, build_service
from slm_operator.cli.placing import build_stopped, place_service, write_placement
from slm_operator.cli.writing import merge
from slm_operator.ports import Manifest, ObjectKey

MODEL = ObjectKey("SLMModel", "default", "tiny")
JOB = ObjectKey("QuantJob", "default", "tiny-q4-k-m")
SERVICE = ObjectKey("InferenceService", "default", "tiny")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SqliteCluster]:
    found = SqliteCluster(tmp_path / "objects.db")
    yield found
    found.close()


def by_hand(manifest: Manifest, **spec: Any) -> Manifest:
    """The manifest as a person writes it."""
    meta = {name: value for name, value in manifest["metadata"].items() if name != "annotations"}
    return {**manifest, "metadata": meta, "spec": {**manifest["spec"], **spec}}


def service(reference: Manifest, **spec: Any) -> Manifest:
    return by_hand(build_service("tiny", "default", reference), **spec)


async def run(cluster: SqliteCluster, variant: str | None = None, name: str = "tiny") -> list[ObjectKey]:
    placement = await place_service(cluster, MODEL, variant, name)
    await write_placement(cluster, placement)
    return placement.keys


async def spec_of(cluster: SqliteCluster, key: ObjectKey = SERVICE) -> Any:
    found = await cluster.get(key)
    return found and found["spec"]


async def test_what_does_not_exist_is_made_and_found_again(cluster: SqliteCluster) -> None:
    assert await run(cluster) == [JOB, SERVICE]
    before = [await cluster.get(key) for key in (JOB, SERVICE)]
    assert await run(cluster) == await run(cluster, "Q4_K_M") == [JOB, SERVICE]
    assert [await cluster.get(key) for key in (JOB, SERVICE)] == before
    assert await spec_of(cluster) == {"quantJobRef": {"name": "tiny-q4-k-m", "variant": "Q4_K_M"}}


async def test_a_service_of_the_model_is_used_as_it_is_whatever_its_variant(cluster: SqliteCluster) -> None:
    job = await cluster.apply(by_hand(build_quant_job("mine", "default", "tiny", "Q8_0")))
    mine = await cluster.apply(service({"quantJobRef": {"name": "mine"}}, contextSize=512, parallel=1))
    assert await run(cluster) == [ObjectKey("QuantJob", "default", "mine"), SERVICE]
    assert await cluster.get(SERVICE) == mine
    assert await cluster.get(ObjectKey("QuantJob", "default", "mine")) == job
    assert await cluster.get(JOB) is None


async def test_a_service_by_hand_is_not_changed_to_another_variant(cluster: SqliteCluster) -> None:
    mine = await cluster.apply(service({"modelRef": {"name": "tiny"}}, contextSize=512))
    with pytest.raises(CommandFailed) as refused:
        await run(cluster, "Q8_0")
    assert str(refused.value) == (
        "inferenceservice.slm.dev/tiny exists already and serves slmmodel.slm.dev/tiny unquantized, "
        "not Q8_0 of quantjob.slm.dev/tiny-q8-0: delete it with slm delete slmsvc/tiny, "
        "take it as it is with --variant none, or choose another name with --name."
    )
    assert await cluster.get(SERVICE) == mine
    assert await cluster.list("QuantJob") == []
    assert (await run(cluster, "Q8_0", name="large"))[-1] == ObjectKey("InferenceService", "default", "large")


@pytest.mark.parametrize("variant", [None, "none", "Q8_0"])
async def test_a_service_of_another_model_is_not_changed(cluster: SqliteCluster, variant: str | None) -> None:
    await cluster.apply(service({"modelRef": {"name": "other"}}))
    with pytest.raises(
        CommandFailed, match=r"serves slmmodel\.slm\.dev/other unquantized, not .*: delete it"
    ) as refused:
        await run(cluster, variant)
    assert str(refused.value).endswith("slm delete slmsvc/tiny, or choose another name with --name.")


async def test_what_run_made_follows_another_variant_and_keeps_what_was_added(cluster: SqliteCluster) -> None:
    await run(cluster, "none")
    found = await cluster.get(SERVICE)
    assert found
    await cluster.apply({**found, "spec": {**found["spec"], "contextSize": 512}})
    assert (await run(cluster))[-1] == SERVICE
    assert await spec_of(cluster) == {"modelRef": {"name": "tiny"}, "contextSize": 512}
    assert await run(cluster, "Q8_0") == [ObjectKey("QuantJob", "default", "tiny-q8-0"), SERVICE]
    reference = {"name": "tiny-q8-0", "variant": "Q8_0"}
    assert await spec_of(cluster) == {"quantJobRef": reference, "contextSize": 512}


async def test_an_applied_manifest_makes_what_run_made_the_users_own(cluster: SqliteCluster) -> None:
    await run(cluster, "none")
    mine = merge(await cluster.get(SERVICE), Document("a.yaml", service({"modelRef": {"name": "tiny"}})))
    assert MADE_BY not in mine["metadata"].get("annotations", {})
    await cluster.apply(mine)
    with pytest.raises(CommandFailed, match="exists already"):
        await run(cluster, "Q8_0")


async def test_an_existing_quantjob_is_left_alone(cluster: SqliteCluster) -> None:
    gate = {"gate": {"maxKLDivergence": 0.05}, "variants": ["Q8_0", "Q4_K_M"]}
    mine = await cluster.apply(by_hand(build_quant_job(JOB.name, "default", "tiny", "Q8_0"), **gate))
    assert await run(cluster) == [JOB, SERVICE]
    assert await cluster.get(JOB) == mine


@pytest.mark.parametrize(
    ("job", "made"),
    [
        (build_quant_job(JOB.name, "default", "tiny", "Q8_0"), "Q8_0 of slmmodel.slm.dev/tiny"),
        (build_quant_job(JOB.name, "default", "other", "Q4_K_M"), "Q4_K_M of slmmodel.slm.dev/other"),
    ],
)
async def test_a_quantjob_that_makes_something_else_is_refused(cluster: SqliteCluster, job: Any, made: str) -> None:
    await cluster.apply(by_hand(job))
    with pytest.raises(CommandFailed) as refused:
        await run(cluster)
    assert str(refused.value) == (
        f"quantjob.slm.dev/tiny-q4-k-m exists already and makes {made}, not Q4_K_M of slmmodel.slm.dev/tiny: "
        "delete it with slm delete qj/tiny-q4-k-m, or ask for another variant with --variant."
    )
    assert await cluster.get(SERVICE) is None


async def test_a_deleted_quantjob_of_a_service_is_made_again(cluster: SqliteCluster) -> None:
    await run(cluster)
    await cluster.delete(JOB)
    assert await run(cluster) == [JOB, SERVICE]
    assert await cluster.get(JOB)


@pytest.mark.parametrize(("spec", "replicas"), [({}, 1), ({"replicas": 3}, 3), ({"replicas": 0}, 1)])
async def test_a_stopped_service_gets_back_the_engines_it_had(
    cluster: SqliteCluster, spec: Manifest, replicas: int
) -> None:
    before = await cluster.apply(service({"modelRef": {"name": "tiny"}}, **spec))
    stopped = await cluster.apply(build_stopped(before))
    await cluster.apply(build_stopped(stopped))
    assert (await spec_of(cluster))["replicas"] == 0
    await run(cluster)
    found = await cluster.get(SERVICE)
    assert found
    assert found["spec"] == {**before["spec"], "replicas": replicas}
    assert found["metadata"].get("annotations", {}) == {}


@pytest.mark.parametrize(("variant", "name"), [("x" * 40, "tiny"), ("none", "No Name"), ("none", "../x")])
async def test_what_cannot_be_made_is_a_malformed_command_line(cluster: SqliteCluster, variant: str, name: str) -> None:
    with pytest.raises(CommandFailed, match="can be made of this: ") as refused:
        await run(cluster, variant, name)
    assert refused.value.code == 2
    assert await cluster.list("QuantJob") == []


def test_what_run_makes_is_marked() -> None:
    made = [build_model("a", "default", {"path": "/m"}), build_quant_job("a", "default", "a", "Q8_0")]
    assert [each["metadata"]["annotations"] for each in made] == [{MADE_BY: "slm-run"}] * 2
