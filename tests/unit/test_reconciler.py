"""What the reconciler does with objects that no planner ever sees."""

from pathlib import Path
from typing import Any

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.reconciler import Reconciler
from tests.support.planning import NOW, PLACEMENT, manifest

KEY = ObjectKey("QuantJob", "default", "q")


class Clock:
    def now(self) -> Any:
        return NOW


async def test_a_refused_object_says_so_once_per_generation(tmp_path: Path) -> None:
    cluster = SqliteCluster(tmp_path / "objects.db")
    reconciler = Reconciler(cluster, Clock(), PLACEMENT)
    for generation, spec in ((1, {"variants": ["Q8_0"]}), (2, {"variants": ["Q4_0"]})):
        await cluster.apply(manifest("QuantJob", "q", spec))
        await reconciler.reconcile(KEY)
        written = await cluster.get(KEY)
        assert written is not None
        stalled = next(item for item in written["status"]["conditions"] if item["type"] == "Stalled")
        assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
        assert stalled["message"] == "spec.modelRef is required"
        assert stalled["observedGeneration"] == written["status"]["observedGeneration"] == generation
        await reconciler.reconcile(KEY)
        assert await cluster.get(KEY) == written
    assert [event["count"] for event in await cluster.events("default", KEY)] == [1]
    cluster.close()
