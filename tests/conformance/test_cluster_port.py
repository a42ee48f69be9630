"""What every ``ports.Cluster`` keeps to: the same assertions over SQLite and over a real API server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.access import Access
from slm_operator.adapters.kube import KubeCluster
from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.errors import Conflict, NameTaken
from slm_operator.ports import Cluster, EventRecord, Manifest, ObjectKey
from tests.support.clusters import MakeNamespace
from tests.support.kube import watched_cluster

LABELS = {"app.kubernetes.io/managed-by": "slm-operator"}

SEEN = {"observedGeneration": 1}
"""In every status of an object that was looked at; an API server has -1 there before."""


@dataclass
class Place:
    """A cluster under test, and its namespace."""

    cluster: Cluster
    namespace: str
    client: KubeClient | None = None
    """Of a real API server; None where the cluster is a file."""

    def key(self, name: str, kind: str = "NetworkPolicy") -> ObjectKey:
        return ObjectKey(kind, self.namespace, name)

    def policy(self, name: str, app: str = "x", **metadata: Any) -> Manifest:
        """An object that no controller touches."""
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": self.namespace, "labels": LABELS, **metadata},
            "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]},
        }

    def child(self, name: str, owner: Manifest, app: str = "x") -> Manifest:
        meta = owner["metadata"]
        names = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
        return self.policy(name, app, ownerReferences=[{**names, "controller": True}])

    def model(self, name: str) -> Manifest:
        return {
            "apiVersion": "slm.dev/v1alpha1",
            "kind": "SLMModel",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"source": {"huggingFace": {"repo": "a/b"}}},
        }

    async def events(self, about: ObjectKey) -> list[tuple[str, str, int]]:
        """Reason, message and count of the Events about an object."""
        if self.client is None:
            assert isinstance(self.cluster, SqliteCluster)
            found = await self.cluster.events(self.namespace, about)
            return [(each["reason"], each["message"], each["count"]) for each in found]
        told = await self.client.read(f"/api/v1/namespaces/{self.namespace}/events")
        mine = [each for each in told["items"] if each["involvedObject"]["name"] == about.name]
        return [(each["reason"], each["message"], each["count"]) for each in mine]


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer; a watch may need a moment."""
    async with asyncio.timeout(30):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found


@pytest.fixture(params=["sqlite", "kubernetes"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        yield Place(SqliteCluster(tmp_path / "slm.sqlite"), "default")
        return
    access: Access = request.getfixturevalue("control_plane")
    make: MakeNamespace = request.getfixturevalue("new_namespace")
    monkeypatch.setenv("KUBECONFIG", str(access.kubeconfig))
    namespace = make()
    async with watched_cluster(namespace) as (cluster, client):
        yield Place(cluster, namespace, client)


async def test_an_unchanged_apply_leaves_version_and_generation_alone(place: Place) -> None:
    first = await place.cluster.apply(place.policy("a"))
    again = await place.cluster.apply(place.policy("a"))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert again["metadata"]["generation"] == first["metadata"]["generation"] == 1
    assert again["metadata"]["uid"] == first["metadata"]["uid"]


async def test_generation_grows_with_the_spec_only(place: Place) -> None:
    await place.cluster.apply(place.policy("a"))
    labelled = await place.cluster.apply(place.policy("a", labels={**LABELS, "tier": "y"}))
    changed = await place.cluster.apply(place.policy("a", app="z"))
    assert labelled["metadata"]["generation"] == 1
    assert changed["metadata"]["generation"] == 2
    assert "tier" not in changed["metadata"]["labels"], "what is not applied any more goes"


async def test_what_a_write_answered_is_what_the_next_read_shows(place: Place) -> None:
    for app in ("x", "y", "z"):
        made = await place.cluster.apply(place.policy("a", app=app))
        found = await place.cluster.get(place.key("a"))
        assert found is not None
        assert found["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        assert found["spec"]["podSelector"]["matchLabels"]["app"] == app


async def test_listing_anew_tells_what_is_there_however_little_was_seen_of_it(place: Place) -> None:
    for name in ("a", "b"):
        await place.cluster.apply(place.policy(name))
    await place.cluster.apply(place.policy("c", labels={"tier": "y"}))
    if isinstance(place.cluster, KubeCluster):
        unseen, gone = place.key("b"), place.policy("d")
        place.cluster._cache.remove(unseen, 1 << 62)
        place.cluster._cache.put({**gone, "metadata": {**gone["metadata"], "uid": "d", "resourceVersion": "1"}})
    found = await place.cluster.list_anew("NetworkPolicy", place.namespace, LABELS)
    assert [(each["kind"], each["apiVersion"], each["metadata"]["name"]) for each in found] == [
        ("NetworkPolicy", "networking.k8s.io/v1", name) for name in ("a", "b")
    ]
    assert await place.cluster.get(place.key("d")) is None


async def test_a_status_is_replaced_and_an_equal_one_not_written(place: Place) -> None:
    key = place.key("m", "SLMModel")
    await place.cluster.apply(place.model("m"))
    await place.cluster.update_status(key, SEEN | {"progress": "one", "revision": "r"})
    before = await place.cluster.get(key)
    await place.cluster.update_status(key, SEEN | {"progress": "one", "revision": "r"})
    assert await place.cluster.get(key) == before
    await place.cluster.update_status(key, SEEN | {"progress": "two"})
    after = await place.cluster.get(key)
    assert after is not None
    assert after["status"] == SEEN | {"progress": "two"}
    assert after["metadata"]["generation"] == 1


async def test_a_map_of_a_status_can_be_emptied(place: Place) -> None:
    key, job = place.key("q", "QuantJob"), place.model("q")
    job |= {"kind": "QuantJob", "spec": {"modelRef": {"name": "m"}, "variants": ["Q4_0"]}}
    await place.cluster.apply(job)
    await place.cluster.update_status(key, {"progress": "one", "stepSeconds": {"convert": 1.5}})
    await place.cluster.update_status(key, {"progress": "two", "stepSeconds": {}})
    after = await place.cluster.get(key)
    assert after is not None
    assert (after["status"]["progress"], after["status"].get("stepSeconds", {})) == ("two", {})
    await place.cluster.update_status(key, {"progress": "two", "stepSeconds": {}})
    assert await place.cluster.get(key) == after


async def test_the_status_of_a_deleted_object_is_a_conflict(place: Place) -> None:
    key = place.key("m", "SLMModel")
    await place.cluster.apply(place.model("m"))
    await place.cluster.delete(key)
    with pytest.raises(Conflict, match=r"SLMModel/.*/m was deleted in between"):
        await place.cluster.update_status(key, {"progress": "late"})


async def test_the_status_of_an_object_made_again_is_a_conflict(place: Place) -> None:
    key = place.key("m", "SLMModel")
    first = await place.cluster.apply(place.model("m"))
    await place.cluster.delete(key)

    async def gone() -> bool:
        return await place.cluster.get(key) is None

    await until(gone)
    second = await place.cluster.apply(place.model("m"))
    with pytest.raises(Conflict, match="was deleted in between"):
        await place.cluster.update_status(key, {"progress": "of the first"}, first["metadata"]["uid"])
    await place.cluster.update_status(key, {"progress": "of the second"}, second["metadata"]["uid"])


async def test_delete_takes_children_along_and_an_absent_object_is_fine(place: Place) -> None:
    owner = await place.cluster.apply(place.model("m"))
    await place.cluster.apply(place.child("child", owner))
    await place.cluster.apply(place.policy("bystander"))
    await place.cluster.delete(place.key("m", "SLMModel"))

    async def alone() -> bool:
        return [each["metadata"]["name"] for each in await place.cluster.list("NetworkPolicy")] == ["bystander"]

    await until(alone)
    await place.cluster.delete(place.key("m", "SLMModel"))
    await place.cluster.delete(place.key("never"))


async def test_a_child_of_somebody_else_is_not_taken_over(place: Place) -> None:
    one, two = await place.cluster.apply(place.model("one")), await place.cluster.apply(place.model("two"))
    await place.cluster.apply(place.child("b", one))
    with pytest.raises(NameTaken, match="exists already and belongs to SLMModel one"):
        await place.cluster.apply(place.child("b", two, app="changed"))
    found = await place.cluster.get(place.key("b"))
    assert found is not None
    assert found["spec"]["podSelector"]["matchLabels"]["app"] == "x"


async def test_what_somebody_made_by_hand_is_not_taken_over(place: Place) -> None:
    owner = await place.cluster.apply(place.model("m"))
    if place.client is None:
        await place.cluster.apply(place.policy("b"))
    else:  # Without our label, so that no watch ever shows it.
        path = f"/apis/networking.k8s.io/v1/namespaces/{place.namespace}/networkpolicies"
        await place.client.write("POST", path, place.policy("b", labels={}), query={"fieldManager": "a-person"})
    with pytest.raises(NameTaken, match="exists already and belongs to"):
        await place.cluster.apply(place.child("b", owner, app="changed"))


async def test_a_service_without_a_selector_is_not_taken_over(place: Place) -> None:
    owner = await place.cluster.apply(place.model("m"))
    spec = {"ports": [{"name": "https", "port": 443}]}  # Nothing of it conflicts with what we would apply.
    by_hand = {**place.policy("b", labels={}), "apiVersion": "v1", "kind": "Service", "spec": spec}
    if place.client is None:
        await place.cluster.apply(by_hand)
    else:
        await place.client.write("POST", f"/api/v1/namespaces/{place.namespace}/services", by_hand)
    ours = {**place.child("b", owner), "apiVersion": "v1", "kind": "Service"}
    ours["spec"] = {"selector": {"app": "x"}, "ports": [{"name": "http", "port": 80}]}
    with pytest.raises(NameTaken, match="exists already and belongs to nobody"):
        await place.cluster.apply(ours)


async def test_create_leaves_what_is_there_as_it_is(place: Place) -> None:
    made = await place.cluster.create(place.policy("a"))
    again = await place.cluster.create(place.policy("a", app="changed"))
    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    assert again["spec"]["podSelector"]["matchLabels"]["app"] == "x"


async def test_create_finds_what_no_watch_has_shown(place: Place) -> None:
    if place.client is None:
        await place.cluster.apply(place.policy("a"))
    else:
        path = f"/apis/networking.k8s.io/v1/namespaces/{place.namespace}/networkpolicies"
        await place.client.write("POST", path, place.policy("a", labels={}))
    found = await place.cluster.create(place.policy("a", app="changed"))
    assert found["spec"]["podSelector"]["matchLabels"]["app"] == "x"


async def test_finalizers_of_a_stale_version_are_a_conflict(place: Place) -> None:
    key = place.key("m", "SLMModel")
    stale = await place.cluster.apply(place.model("m"))
    await place.cluster.update_status(key, SEEN | {"progress": "one"})
    with pytest.raises(Conflict):
        await place.cluster.set_finalizers(key, stale["metadata"]["resourceVersion"], ["slm.dev/store"])
    fresh = await place.cluster.get(key)
    assert fresh is not None
    await place.cluster.set_finalizers(key, fresh["metadata"]["resourceVersion"], ["slm.dev/store"])
    held = await place.cluster.get(key)
    assert held is not None
    assert held["metadata"]["finalizers"] == ["slm.dev/store"]
    assert held["status"] == SEEN | {"progress": "one"}
    await place.cluster.set_finalizers(key, held["metadata"]["resourceVersion"], [])


async def test_equal_events_are_one_and_counted(place: Place) -> None:
    key = place.key("m", "SLMModel")
    await place.cluster.apply(place.model("m"))
    for message in ("one", "two", "two"):
        await place.cluster.record(EventRecord(key, "Normal", "Done", message))
    assert {(reason, message) for reason, message, _ in await place.events(key)} == {("Done", "one"), ("Done", "two")}


async def test_an_event_that_cannot_be_written_is_not_worth_failing_for(place: Place) -> None:
    gone = ObjectKey("SLMModel", "no-such-namespace", "m")
    await place.cluster.record(EventRecord(gone, "Normal", "Done", "nobody hears it"))


async def test_list_filters_by_labels(place: Place) -> None:
    await place.cluster.apply(place.policy("a"))
    await place.cluster.apply(place.policy("b", labels={**LABELS, "app": "x"}))
    for labels, names in (({}, ["a", "b"]), ({"app": "x"}, ["b"]), ({"app": "z"}, [])):
        found = await place.cluster.list("NetworkPolicy", place.namespace, labels)
        assert [each["metadata"]["name"] for each in found] == names
    assert await place.cluster.list("NetworkPolicy", "elsewhere") == []


async def test_changes_show_what_exists_then_writes_then_deletions(place: Place) -> None:
    await place.cluster.apply(place.policy("a"))
    changes = place.cluster.changes()

    async def seen(key: ObjectKey) -> None:
        async with asyncio.timeout(10):
            while await anext(changes) != key:
                pass

    await seen(place.key("a"))
    await place.cluster.apply(place.policy("b"))
    await seen(place.key("b"))
    await place.cluster.delete(place.key("a"))
    await seen(place.key("a"))

    async def gone() -> bool:
        return await place.cluster.get(place.key("a")) is None

    await until(gone)
