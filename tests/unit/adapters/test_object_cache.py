"""The cache shows the newest version of what was seen, whatever order it was told in."""

import asyncio
from typing import Any

from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.ports import Manifest, ObjectKey

KEY = ObjectKey("Pod", "n", "a")


def pod(version: int, name: str = "a", uid: str = "u", **metadata: Any) -> Manifest:
    meta = {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version), **metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"version": version}}


def owned(name: str, owner: str, version: int = 1) -> Manifest:
    return pod(version, name, labels={"slm.dev/kind": "QuantJob", "slm.dev/name": owner})


def test_an_older_version_is_no_news() -> None:
    cache = ObjectCache()
    assert cache.put(pod(10))
    assert not cache.put(pod(9))
    assert not cache.put(pod(10))
    found = cache.get(KEY)
    assert found is not None
    assert found["spec"] == {"version": 10}


def test_a_late_deletion_does_not_remove_what_was_made_again() -> None:
    cache = ObjectCache()
    cache.put(pod(20, uid="second"))
    assert not cache.remove(KEY, 15)
    assert cache.get(KEY) is not None
    assert cache.remove(KEY, 21)
    assert cache.get(KEY) is None


def test_an_answer_that_comes_after_the_deletion_was_told_brings_nothing_back() -> None:
    cache = ObjectCache()
    cache.put(pod(20, uid="first"))
    assert cache.remove(KEY, 22)
    assert not cache.put(pod(21, uid="first"))
    assert cache.get(KEY) is None
    # What only left the selection, or was made anew, comes again.
    assert cache.put(pod(23, uid="first"))
    assert cache.remove(KEY, 24)
    assert cache.put(pod(25, uid="second"))


def test_what_is_handed_out_is_a_copy() -> None:
    cache = ObjectCache()
    cache.put(pod(1))
    first = cache.get(KEY)
    assert first is not None
    first["spec"]["version"] = "changed"
    assert cache.get(KEY) != first


def test_bookkeeping_of_the_server_is_not_kept() -> None:
    cache = ObjectCache()
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "kept"}
    cache.put(pod(1, managedFields=[{"manager": "m"}], annotations=annotations))
    found = cache.get(KEY)
    assert found is not None
    assert "managedFields" not in found["metadata"]
    assert found["metadata"]["annotations"] == {"mine": "kept"}


def test_children_are_found_by_owner_until_they_go_or_change_hands() -> None:
    cache = ObjectCache()
    labels = {"slm.dev/kind": "QuantJob", "slm.dev/name": "q"}
    for name in ("b", "a"):
        cache.put(owned(name, "q"))
    cache.put(owned("c", "other"))
    assert [each["metadata"]["name"] for each in cache.list("Pod", "n", labels)] == ["a", "b"]
    cache.put(owned("a", "other", version=2))
    cache.remove(ObjectKey("Pod", "n", "b"), 5)
    assert cache.list("Pod", "n", labels) == []
    assert len(cache.list("Pod", "n", labels | {"slm.dev/name": "other"})) == 2


async def test_changes_begin_with_all_and_repeats_that_were_not_taken_are_one() -> None:
    cache = ObjectCache()
    cache.put(pod(1))
    changes = cache.changes()
    assert await anext(changes) == KEY
    for version in (2, 3, 4):
        cache.put(pod(version))
    cache.put(pod(1, "b"))
    assert [await anext(changes), await anext(changes)] == [KEY, ObjectKey("Pod", "n", "b")]
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    assert not waiting.done()
    cache.remove(KEY, 9)
    assert await waiting == KEY


def test_of_a_node_only_what_an_engine_needs_to_know_is_kept() -> None:
    cache = ObjectCache()
    images = [{"names": [f"registry.example/image-{number}"], "sizeBytes": 1} for number in range(50)]
    known = {"allocatable": {"memory": "1Gi"}, "conditions": [{"type": "Ready", "status": "True"}]}
    meta = {"name": "a", "uid": "u", "resourceVersion": "1", "labels": {"pool": "models"}}
    cache.put({"kind": "Node", "metadata": meta, "spec": {"taints": []}, "status": {**known, "images": images}})
    (found,) = cache.list("Node", "", {})
    assert found["status"] == known
    assert (found["metadata"]["labels"], found["spec"]) == ({"pool": "models"}, {"taints": []})
