"""The audit finds what watches do not tell: deletions in a gap, and a watch that hangs."""

import asyncio
from typing import Any

import pytest

from slm_operator.adapters.kube_audit import STUCK_SECONDS, Audit, retry_seconds
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.errors import ClusterUnavailable, Refused
from slm_operator.ports import Manifest, ObjectKey

KEY = ObjectKey("SLMModel", "n", "a")


def model(name: str, version: int) -> Manifest:
    meta = {"namespace": "n", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"apiVersion": "slm.dev/v1alpha1", "kind": "SLMModel", "metadata": meta}


class Server:
    """Lists SLMModels, one in each page; every other kind is empty."""

    def __init__(self) -> None:
        self.models: list[Manifest] = []
        self.version = 100
        self.paths: list[str] = []
        self.broken: Exception | None = None

    async def read(self, path: str, query: dict[str, str], *, accept: str) -> Any:
        assert "PartialObjectMetadata" in accept, "contents are not listed"
        if self.broken is not None:
            raise self.broken
        self.paths.append(path)
        meta = {"resourceVersion": str(self.version)}
        if not path.endswith("slmmodels"):
            return {"metadata": meta, "items": None}
        at = int(query.get("continue", 0))
        more = {"continue": str(at + 1)} if at + 1 < len(self.models) else {}
        return {"metadata": {**meta, **more}, "items": self.models[at : at + 1]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def audited(*names: str) -> tuple[Server, ObjectCache, Clock, Audit]:
    server, cache, clock = Server(), ObjectCache(), Clock()
    server.models = [model(name, 10) for name in names]
    return server, cache, clock, Audit(server, cache, ["n"], {}, clock)  # type: ignore[arg-type]


async def test_what_was_deleted_unseen_goes_and_the_rest_stays() -> None:
    server, cache, _, audit = audited("a", "b", "c")
    for each in server.models:
        cache.put(each)
    cache.put(model("gone", 50))
    assert not await audit.compare()
    assert [key.name for key in cache.keys("SLMModel")] == ["a", "b", "c"]


async def test_what_was_made_after_the_listing_stays() -> None:
    _, cache, _, audit = audited()
    cache.put(model("a", 101))
    await audit.compare()
    assert cache.get(KEY) is not None


async def test_other_namespaces_are_left_alone() -> None:
    _, cache, _, audit = audited()
    other = model("a", 5)
    other["metadata"]["namespace"] = "elsewhere"
    cache.put(other)
    await audit.compare()
    assert cache.get(ObjectKey("SLMModel", "elsewhere", "a")) is not None


async def test_a_watch_that_is_behind_for_long_is_stuck_until_it_catches_up() -> None:
    server, cache, clock, audit = audited("a")
    assert await audit.compare()
    assert audit.stuck() == ""
    clock.now = STUCK_SECONDS + 1
    assert await audit.compare()
    assert audit.stuck() == (
        f"The watch of SLMModel objects is stuck: SLMModel/n/a changed {clock.now:.0f} s ago unseen."
    )
    cache.put(server.models[0])
    assert not await audit.compare()
    assert audit.stuck() == ""


def test_failed_audits_wait_twice_as_long_each_time_and_as_long_as_they_are_asked_to() -> None:
    refused = Refused("pods is forbidden")
    assert [retry_seconds(refused, failures) for failures in (1, 2, 3, 7, 8, 9999)] == [0.4, 0.8, 1.6, 25.6, 30.0, 30.0]
    busy = ClusterUnavailable("429", retry_after_seconds=45)
    assert retry_seconds(busy, 1) == 45.0


async def test_a_server_that_is_away_is_not_asked_five_times_a_second(caplog: pytest.LogCaptureFixture) -> None:
    server, _, _, audit = audited("a")
    server.broken = Refused("pods is forbidden")
    running = asyncio.create_task(audit.run())
    await asyncio.sleep(1.6)  # At 0, 0.4 and 1.2 seconds.
    running.cancel()
    await asyncio.wait([running])
    told = [record.__dict__ for record in caplog.records]
    assert [(line["message"], line["error"]) for line in told] == [("audit failed", "pods is forbidden")] * len(told)
    assert 1 <= len(told) <= 3
    assert not audit.synced.is_set()


async def test_what_changes_meanwhile_is_not_waited_for() -> None:
    server, cache, _, audit = audited("a", "b")
    catching = asyncio.create_task(audit.catch_up())
    for version in range(11, 200):
        server.models = [model("a", version), model("b", version)]
        cache.put(model("a", version - 1))
        cache.put(model("b", version - 1))
        await asyncio.sleep(0.01)
        if catching.done():
            break
    assert catching.done(), "there is always something newer"
    await catching
