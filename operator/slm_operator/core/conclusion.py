"""Finished work stays finished: a status that tells its result outlives the Jobs that found it out.

Jobs and their Pods are deleted by people, by drained nodes and by the garbage collection of pods. As long as the work
an object asks for is the work its status tells of, they are not needed.
"""

from slm_operator.api.inferenceservice import CompanionStatus, InferenceServiceStatus
from slm_operator.api.quantjob import QuantJobStatus
from slm_operator.api.registry import AnyResource
from slm_operator.api.slmmodel import SLMModelStatus
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


Status = SLMModelStatus | QuantJobStatus | InferenceServiceStatus | CompanionStatus


def build_work_digest(owner: AnyResource, placement: Placement, *inputs: str) -> str:
    """Identity of what the object asks for, on these ``inputs``.

    What only the operator's settings say is left out: another version or another default undoes nothing.
    """
    asked = owner.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(UNRELATED))
    return build_step_digest(owner, placement, asked, *inputs)


def build_step_digest(owner: AnyResource, placement: Placement, *inputs: object) -> str:
    """Identity of one step of the object that only depends on ``inputs``."""
    retry = owner.metadata.annotations.get(ANNOTATION_RETRY, "")
    # Twice eight digits: eight are enough for a name, but what is equal by chance would never be done.
    return "".join(short_digest([half, owner.kind, retry, placement.store, inputs]) for half in range(2))


def is_done(status: Status, work: str, store: StoreView | None) -> bool:
    """Whether the status tells the result of this very work, and the store still is the one that holds it."""
    return bool(work) and status.work_digest == work and is_same_store(status, store)


def is_same_store(status: Status, store: StoreView | None) -> bool:
    """Whether what the status tells of is in the store that is there now; the local backend has but one."""
    return status.store_uid == (store.uid if store else "")
