"""Kopf's events on their way into the cache."""

import inspect
from typing import Any

import pytest

from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.handlers.watching import build_listener, build_settings
from slm_operator.ports import ObjectKey

KEY = ObjectKey("Service", "n", "s")


def event(kind: str | None, version: int) -> dict[str, Any]:
    meta = {"namespace": "n", "name": "s", "uid": "u", "resourceVersion": str(version)}
    return {"type": kind, "object": {"apiVersion": "v1", "kind": "Service", "metadata": meta}}


async def test_events_fill_the_cache_and_a_second_listing_asks_for_an_audit() -> None:
    cache, asked = ObjectCache(), []
    remember = build_listener(cache, lambda: asked.append(True))
    await remember(event=event(None, 1), name="s")
    assert [each.name for each in cache.keys("Service")] == ["s"]
    await remember(event=event("MODIFIED", 2))
    assert asked == [], "neither the first listing nor a change is a gap"
    await remember(event=event(None, 2))
    assert asked == [True]
    await remember(event=event("DELETED", 3))
    assert cache.entry(KEY) is None


def test_events_stay_in_the_thread_that_the_cache_belongs_to() -> None:
    remember = build_listener(ObjectCache(), lambda: None)
    assert inspect.iscoroutinefunction(remember), "kopf calls anything else in a thread of a pool"


@pytest.mark.parametrize("kept", ["diffbase_storage", "progress_storage"])
def test_kopf_copies_no_object_and_writes_no_annotation(kept: str) -> None:
    storage = getattr(build_settings({}).persistence, kept)
    patch: dict[str, Any] = {}
    body = event("ADDED", 1)["object"]
    storage.store(body=body, patch=patch, key="k", record={}, essence={})
    assert storage.fetch(body=body, key="k") is None
    assert patch == {}


def test_kopf_compares_nothing_of_an_object() -> None:
    class Untouchable(dict[str, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("it was copied")

    settings = build_settings({})
    assert settings.persistence.diffbase_storage.build(body=Untouchable(), extra_fields=[]) is None  # type: ignore[arg-type]
