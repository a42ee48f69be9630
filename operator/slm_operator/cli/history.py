"""What happened to an object: its own events, and those of the Jobs and Pods that work for it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.session import CHILD_KINDS
from slm_operator.ports import ObjectKey

EventRow = dict[str, Any]
Labels = Mapping[str, str]

STEPS: Mapping[str, Sequence[str]] = {
    "SLMModel": ("resolve", "acquire"),
    "QuantJob": ("convert", "quantize", "evaluate", "benchmark", "report"),
    "InferenceService": ("convert", "snapshot", "vocabulary", "projector", "adapt"),
}
"""The steps that Jobs of a kind do; their names follow the owner's."""
STEP_TAIL = r"-(?:{steps})(?:-[a-z0-9-]+)?-[0-9a-f]{{8}}(?:-\d+)?"
"""What ``build_job_name`` appends, and the number of a try behind it."""
ENGINE_TAIL = r"-[0-9a-f]{10}-[0-9a-f]{6}"
"""What a Deployment appends for a Pod: the template's digest and a random part."""


async def find_events(cluster: SqliteCluster, key: ObjectKey) -> list[EventRow]:
    """Events of the object and of what it owns, oldest first.

    An engine's crash is recorded on its Pod, which may be gone by the time somebody asks: then its name tells.
    """
    living: dict[ObjectKey, Labels] = {}
    for kind in CHILD_KINDS:
        for child in await cluster.list(kind, key.namespace):
            meta = child["metadata"]
            living[ObjectKey(kind, key.namespace, meta["name"])] = meta.get("labels") or {}
    return [row for row in await cluster.events(key.namespace) if belongs_to(row, key, living)]


def belongs_to(row: EventRow, owner: ObjectKey, living: Mapping[ObjectKey, Labels]) -> bool:
    """Whether an event is about the owner, a child by its labels, or a child that is gone by its name."""
    about = ObjectKey(row["kind"], row["namespace"], row["name"])
    if about == owner:
        return True
    if about in living:
        labels = living[about]
        return (labels.get("slm.dev/kind"), labels.get("slm.dev/name")) == (owner.kind, owner.name)
    return about.kind in CHILD_KINDS and _is_name_of_child(about.name, owner)


def _is_name_of_child(name: str, owner: ObjectKey) -> bool:
    # The whole form of the name, as `demo-2` begins with `demo-` too.
    tails = [STEP_TAIL.format(steps="|".join(STEPS[owner.kind]))] if owner.kind in STEPS else []
    tails += [ENGINE_TAIL] if owner.kind == "InferenceService" else []
    return any(re.fullmatch(re.escape(owner.name) + tail, name) for tail in tails)
