"""Finished work stays finished: a status that tells its result outlives the Jobs that found it out.

Jobs and their Pods are deleted by people, by drained nodes and by the garbage collection of pods. As long as the work
an object asks for is the work its status tells of, they are not needed.
"""

from slm_operator.api.registry import AnyResource
from slm_operator.core.manifests.metadata import ANNOTATION_RETRY, short_digest
from slm_operator.core.placement import Placement
from slm_operator.core.store import StoreView

UNRELATED = frozenset(
    {
        *("suspend", "backoff_limit", "ttl_seconds_after_finished", "resources"),
        *("node_selector", "tolerations", "priority_class_name"),
    }
)
"""Fields of a spec that say how work is done, and not which."""


def build_work_digest(owner: AnyResource, placement: Placement, store: StoreView | None, *inputs: str) -> str:
    """Identity of what the object asks for, on these ``inputs`` and in this store.

    What only the operator's settings say is left out: another version or another default undoes nothing.
    """
    asked = owner.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(UNRELATED))
    return _digest(owner, placement, store, asked, *inputs)


def build_step_digest(owner: AnyResource, placement: Placement, store: StoreView | None, *inputs: str) -> str:
    """Identity of one step of the object that only depends on ``inputs``."""
    return _digest(owner, placement, store, *inputs)


def _digest(owner: AnyResource, placement: Placement, store: StoreView | None, *parts: object) -> str:
    retry = owner.metadata.annotations.get(ANNOTATION_RETRY, "")
    where = [placement.store, store.uid if store else ""]
    return "".join(short_digest([half, owner.kind, retry, where, parts]) for half in range(2))
