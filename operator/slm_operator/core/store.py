"""The store of a namespace on a cluster as its children find it: a claim, its network policies, its collections."""

from dataclasses import dataclass, field
from datetime import datetime

from slm_contract.reasons import Reason
from slm_operator.api.meta import ObjectMeta
from slm_operator.core.conditions import Verdict, parse_time
from slm_operator.core.manifests.metadata import controller_of, is_predecessors
from slm_operator.core.manifests.network import POLICY_NAMES
from slm_operator.core.plan import Manifest
from slm_operator.core.roots import has_ended
from slm_operator.core.steps import Children

CLAIM_KIND = "PersistentVolumeClaim"


@dataclass(frozen=True)
class ClaimOwner:
    """The claim as an owner of what belongs to the store as a whole."""

    metadata: ObjectMeta
    api_version: str = "v1"
    kind: str = CLAIM_KIND

    @staticmethod
    def of(claim: Manifest) -> "ClaimOwner":
        """The claim of a manifest; its name may be longer than those of our kinds."""
        meta = claim["metadata"]
        return ClaimOwner(ObjectMeta.model_construct(name=meta["name"], namespace=meta["namespace"], uid=meta["uid"]))


@dataclass(frozen=True)
class StoreView:
    """What is known of a namespace's store."""

    name: str
    """Name of the claim, whether it is there or not."""
    claim: Manifest | None = None
    policies: tuple[Manifest, ...] = ()
    """Network policies of the names that ours have."""
    collections: Children = field(default_factory=lambda: Children({}, {}))
    """Jobs that clean the store, and their Pods."""

    @property
    def uid(self) -> str:
        """Identity of the claim: another claim is another store, in which nothing is yet."""
        return str(self.claim["metadata"].get("uid", "")) if self.claim else ""

    def is_younger_than(self, job: Manifest) -> bool:
        """Whether the claim was made after the Job: then what that Job made was in another store."""
        made, began = (_made_at(each) for each in (self.claim or {}, job))
        return made is not None and began is not None and made > began


def _made_at(manifest: Manifest) -> datetime | None:
    return parse_time(manifest.get("metadata", {}).get("creationTimestamp", ""))


def check_store(store: StoreView) -> Verdict | None:
    """Why no pod may use the store now, or None."""
    return _check_claim(store) or _check_policies(store) or _check_collection(store)


def _check_claim(store: StoreView) -> Verdict | None:
    claim, name = store.claim, store.name
    if claim is None:
        return _waiting(f"The volume claim {name} does not exist yet. The operator makes it, and then this goes on.")
    if claim["metadata"].get("deletionTimestamp"):
        return _waiting(f"The volume claim {name} is being deleted. Once it is gone the operator makes a new one.")
    phase, spec = claim.get("status", {}).get("phase"), claim["spec"]
    if phase == "Lost":
        message = f"The volume of claim {name} is lost: restore it, or delete the claim so that all is made anew."
        return Verdict("stalled", Reason.STORE_NOT_READY, message)
    if phase == "Pending" and not spec.get("storageClassName") and not spec.get("volumeName"):
        # With a class it is normal: the volume is made for the first pod.
        message = (
            f"The volume claim {name} has no storage class and the cluster no default one: set the operator's "
            "SLM_STORE_CLASS and delete the claim, or make a claim of that name yourself."
        )
        return Verdict("stalled", Reason.STORE_NOT_READY, message)
    return None


def _check_policies(store: StoreView) -> Verdict | None:
    found = {policy["metadata"]["name"]: policy for policy in store.policies}
    for name in POLICY_NAMES:
        if name not in found:
            return _waiting(
                f"The network policy {name} does not exist yet. The operator makes it, and then this goes on."
            )
        if store.claim and is_predecessors(ClaimOwner.of(store.claim), found[name]):
            return _waiting(f"The network policy {name} of an earlier volume claim is still being removed.")
        if controller_of(found[name]) != store.uid:
            message = (
                f"NetworkPolicy {name} exists and belongs to somebody else: rename it, no pod starts without ours."
            )
            return Verdict("stalled", Reason.NAME_CONFLICT, message)
    return None


def _check_collection(store: StoreView) -> Verdict | None:
    if all(has_ended(job) for job in store.collections.jobs.values()):
        return None
    message = "The store is being cleaned, and nothing else may write to it meanwhile. It goes on in a moment."
    return Verdict("progressing", Reason.STORE_BUSY, message)


def _waiting(message: str) -> Verdict:
    return Verdict("progressing", Reason.STORE_NOT_READY, message)
