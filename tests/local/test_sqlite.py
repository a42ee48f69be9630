import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.errors import Conflict
from slm_operator.ports import EventRecord, Manifest, ObjectKey

KEY = ObjectKey("ConfigMap", "default", "a")


def manifest(name: str = "a", **spec: object) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "spec": spec}


def child(name: str, owner: Manifest) -> Manifest:
    meta = owner["metadata"]
    reference = {"apiVersion": "v1", "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**manifest(name), "metadata": {"name": name, "ownerReferences": [{**reference, "controller": True}]}}


@pytest.fixture
def cluster(tmp_path: Path) -> SqliteCluster:
    return SqliteCluster(tmp_path / "slm.sqlite")


async def test_an_unchanged_apply_leaves_resource_version_and_generation_alone(cluster: SqliteCluster) -> None:
    first = await cluster.apply(manifest(size=1))
    await cluster.update_status(KEY, {"seen": True})
    known = await cluster.get(KEY)
    again = await cluster.apply(manifest(size=1))
    assert again == known
    assert again["metadata"]["generation"] == 1
    assert again["metadata"]["uid"] == first["metadata"]["uid"]
    assert again["status"] == {"seen": True}


async def test_generation_grows_with_the_spec_only(cluster: SqliteCluster) -> None:
    await cluster.apply(manifest(size=1))
    labelled = manifest(size=1)
    labelled["metadata"]["labels"] = {"app": "x"}
    relabelled = await cluster.apply(labelled)
    changed = await cluster.apply(manifest(size=2))
    assert relabelled["metadata"]["generation"] == 1
    assert changed["metadata"]["generation"] == 2
    assert "labels" not in changed["metadata"]


async def test_an_equal_status_is_not_written(cluster: SqliteCluster) -> None:
    await cluster.apply(manifest())
    await cluster.update_status(KEY, {"a": 1})
    before = await cluster.get(KEY)
    await cluster.update_status(KEY, {"a": 1})
    assert await cluster.get(KEY) == before


async def test_the_status_of_a_deleted_object_is_a_conflict(cluster: SqliteCluster) -> None:
    with pytest.raises(Conflict, match="ConfigMap/default/a was deleted in between"):
        await cluster.update_status(KEY, {})


async def test_delete_takes_grandchildren_along(cluster: SqliteCluster) -> None:
    parent = await cluster.apply(manifest())
    middle = await cluster.apply(child("b", parent))
    await cluster.apply(child("c", middle))
    await cluster.apply(manifest("bystander"))
    await cluster.delete(KEY)
    assert [each["metadata"]["name"] for each in await cluster.list("ConfigMap")] == ["bystander"]
    await cluster.delete(KEY)


async def test_a_child_of_somebody_else_is_a_conflict(cluster: SqliteCluster) -> None:
    one, two = await cluster.apply(manifest("one")), await cluster.apply(manifest("two"))
    await cluster.apply(child("b", one))
    with pytest.raises(Conflict, match="exists already and belongs to ConfigMap one; delete it"):
        await cluster.apply(child("b", two))


async def test_a_child_of_a_deleted_owner_is_a_conflict(cluster: SqliteCluster) -> None:
    owner = await cluster.apply(manifest())
    await cluster.delete(KEY)
    with pytest.raises(Conflict, match="its owner ConfigMap a was deleted"):
        await cluster.apply(child("b", owner))


async def test_a_stale_resource_version_is_a_conflict(cluster: SqliteCluster) -> None:
    stale = await cluster.apply(manifest(size=1))
    await cluster.apply(manifest(size=2))
    with pytest.raises(Conflict, match=r"its resourceVersion differs\); read it again"):
        await cluster.apply(stale)


async def test_equal_events_are_counted(cluster: SqliteCluster) -> None:
    for message in ("one", "one", "two"):
        await cluster.record(EventRecord(KEY, "Normal", "Done", message))
    found = await cluster.events("default", KEY)
    assert [(each["reason"], each["message"], each["count"]) for each in found] == [
        ("Done", "one", 2),
        ("Done", "two", 1),
    ]
    assert await cluster.events("elsewhere") == []


async def test_list_filters_by_label_and_namespace(cluster: SqliteCluster) -> None:
    other = manifest("b")
    other["metadata"] |= {"namespace": "n", "labels": {"app": "x", "tier": "y"}}
    await cluster.apply(manifest())
    await cluster.apply(other)
    assert len(await cluster.list("ConfigMap")) == 2
    assert [each["metadata"]["name"] for each in await cluster.list("ConfigMap", "n", {"app": "x"})] == ["b"]
    assert await cluster.list("ConfigMap", "", {"app": "z"}) == []


OTHER_PROCESS = """
import asyncio, sys
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.ports import ObjectKey
async def main():
    cluster = SqliteCluster(sys.argv[1])
    await cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}})
    await cluster.delete(ObjectKey("ConfigMap", "default", "a"))
asyncio.run(main())
"""


async def test_changes_show_what_exists_then_own_writes_then_those_of_other_processes(
    cluster: SqliteCluster, tmp_path: Path
) -> None:
    await cluster.apply(manifest())
    changes = cluster.changes()
    assert await anext(changes) == KEY
    await cluster.update_status(KEY, {"a": 1})
    async with asyncio.timeout(5):
        assert await anext(changes) == KEY
    argv = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "slm.sqlite")]
    await asyncio.to_thread(subprocess.run, argv, check=True)
    async with asyncio.timeout(5):
        assert await anext(changes) == ObjectKey("ConfigMap", "default", "b")
        assert await anext(changes) == KEY
    assert await cluster.get(KEY) is None
