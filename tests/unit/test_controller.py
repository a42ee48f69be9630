"""Who is looked at when something changes, and what is said when nothing moves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from slm_operator.errors import ClusterUnavailable
from slm_operator.ports import Manifest, ObjectKey
from slm_operator.reconcile import controller as controllers
from slm_operator.reconcile.controller import Controller
from slm_operator.reconcile.references import References

MODEL, JOB, SERVICE = (
    ObjectKey(kind, "n", name) for kind, name in (("SLMModel", "m"), ("QuantJob", "q"), ("InferenceService", "s"))
)


def test_dependants_are_direct_ones_and_those_behind_a_quantjob() -> None:
    references = References()
    references.learn(JOB, {"spec": {"modelRef": {"name": "m"}}})
    references.learn(SERVICE, {"spec": {"quantJobRef": {"name": "q"}}})
    assert references.of(MODEL) == [SERVICE, JOB]
    assert references.of(JOB) == [SERVICE]
    references.learn(SERVICE, {"spec": {"modelRef": {"name": "other"}}})
    assert references.of(MODEL) == [JOB]
    references.learn(JOB, None)
    assert references.of(MODEL) == []


def test_an_object_depends_on_all_that_it_names_wherever_it_names_them() -> None:
    references, draft = References(), ObjectKey("SLMModel", "n", "d")
    spec = {"modelRef": {"name": "m"}, "speculative": {"draftModelRef": {"name": "d"}}, "list": [{"quantJobRef": 1}]}
    references.learn(SERVICE, {"spec": spec})
    assert (references.of(MODEL), references.of(draft)) == ([SERVICE], [SERVICE])
    references.learn(SERVICE, {"spec": {"list": [{"modelRef": {"name": "d"}}]}})
    assert (references.of(MODEL), references.of(draft)) == ([], [SERVICE])


@pytest.mark.parametrize("spec", [None, 3, {"modelRef": "m"}, {"modelRef": {}}, {"modelRef": {"name": 1}}])
def test_a_malformed_reference_names_nobody(spec: Any) -> None:
    references = References()
    references.learn(JOB, {"spec": spec})
    assert references.of(MODEL) == []


class Cluster:
    """Tells one change and no more."""

    async def get(self, _key: ObjectKey) -> Manifest:
        return {"metadata": {}, "spec": {}}

    async def changes(self) -> AsyncIterator[ObjectKey]:
        yield MODEL
        await asyncio.Event().wait()


class Stubborn:
    """Hangs, or fails as told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.looks: list[float] = []

    async def reconcile(self, _key: ObjectKey) -> float | None:
        self.looks.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        await asyncio.Event().wait()
        return None

    def store_key(self, _namespace: str) -> ObjectKey | None:
        return None


async def test_work_that_hangs_is_told_with_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "STUCK_SECONDS", 0.05)
    controller = Controller(Cluster(), Stubborn())  # type: ignore[arg-type]
    task = asyncio.create_task(controller.run())
    assert controller.stuck() == ""
    await asyncio.sleep(0.2)
    assert controller.stuck().startswith("Work is stuck: SLMModel/n/m has been worked on for")
    task.cancel()
    await asyncio.wait([task])


async def test_a_server_that_says_when_to_come_back_is_obeyed() -> None:
    reconciler = Stubborn(ClusterUnavailable("429", retry_after_seconds=0.6), ClusterUnavailable("500"))
    task = asyncio.create_task(Controller(Cluster(), reconciler).run())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(reconciler.looks) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    first, second, third = reconciler.looks
    assert second - first >= 0.6
    assert third - second >= 0.4


class Storing(Stubborn):
    """Remembers who is looked at, on a cluster where each namespace has a store."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[ObjectKey] = []

    async def reconcile(self, key: ObjectKey) -> float | None:
        self.keys.append(key)
        return None

    def store_key(self, namespace: str) -> ObjectKey | None:
        return ObjectKey("PersistentVolumeClaim", namespace, "slm-store")


class Changing:
    """Tells of changes as they are put in."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Manifest] = {}
        self.told: asyncio.Queue[ObjectKey] = asyncio.Queue()

    async def get(self, key: ObjectKey) -> Manifest | None:
        return self.objects.get(key)

    async def changes(self) -> AsyncIterator[ObjectKey]:
        while True:
            yield await self.told.get()


async def test_a_model_furnishes_its_namespace_and_a_change_of_the_store_concerns_all_in_it() -> None:
    cluster, reconciler = Changing(), Storing()
    store = ObjectKey("PersistentVolumeClaim", "n", "slm-store")
    policy = ObjectKey("NetworkPolicy", "n", "slm-engines")
    labels = {"slm.dev/kind": store.kind, "slm.dev/name": store.name}
    cluster.objects = {key: {"metadata": {"name": key.name}, "spec": {}} for key in (MODEL, JOB, store)}
    cluster.objects[policy] = {"metadata": {"labels": labels}, "spec": {}}
    task = asyncio.create_task(Controller(cluster, reconciler).run())  # type: ignore[arg-type]

    async def looked_after(key: ObjectKey) -> set[ObjectKey]:
        reconciler.keys.clear()
        cluster.told.put_nowait(key)
        await asyncio.sleep(0.05)
        return set(reconciler.keys)

    assert await looked_after(JOB) == {JOB}
    assert await looked_after(MODEL) == {MODEL, store}
    assert await looked_after(store) == {store, MODEL, JOB}
    assert await looked_after(policy) == {store, MODEL, JOB}
    del cluster.objects[policy]
    assert await looked_after(policy) == {store, MODEL, JOB}
    other = ObjectKey("PersistentVolumeClaim", "n", "other")
    assert await looked_after(other) == {other}
    task.cancel()
    await asyncio.wait([task])


class Settled:
    """A thousand objects that need nothing: looking at one never waits."""

    looks = 0

    async def reconcile(self, _key: ObjectKey) -> None:
        self.looks += 1

    def store_key(self, _namespace: str) -> None:
        return None


class Crowd(Cluster):
    async def changes(self) -> AsyncIterator[ObjectKey]:
        for number in range(1000):
            yield ObjectKey("SLMModel", "n", f"m{number}")
        await asyncio.Event().wait()


async def test_a_thousand_objects_that_need_nothing_let_others_have_their_turn() -> None:
    reconciler = Settled()
    task = asyncio.create_task(Controller(Crowd(), reconciler).run())  # type: ignore[arg-type]
    most, before = 0, 0
    while before < 1000:
        await asyncio.sleep(0)  # The renewal of a Lease is such a neighbour.
        most, before = max(most, reconciler.looks - before), reconciler.looks
    assert most <= controllers.WORKERS
    task.cancel()
    await asyncio.wait([task])
