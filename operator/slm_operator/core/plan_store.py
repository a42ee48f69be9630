"""plan_store: the claim of a namespace's store, and the network policies that pods need before they may start."""

from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator.core.diff import check_owner
from slm_operator.core.manifests.claim import build_claim
from slm_operator.core.manifests.network import build_callers, build_policies
from slm_operator.core.placement import ClusterPods, Placement
from slm_operator.core.plan import Manifest, Plan
from slm_operator.core.store import ClaimOwner, StoreView


@dataclass(frozen=True)
class StoreSnapshot:
    """Everything the planner looks at."""

    namespace: str
    store: StoreView
    endpoints: Sequence[str] | None
    """Hubs that the SLMModels of the namespace name; None where there is no SLMModel, and so no need for a store."""
    placement: Placement


def plan_store(snapshot: StoreSnapshot, pods: ClusterPods) -> Plan:
    """What to do for the store of one namespace.

    A claim that is there is taken as it is, whoever made it. The policies belong to the claim and go with it.
    """
    claim = snapshot.store.claim
    if claim is None:
        return Plan() if snapshot.endpoints is None else Plan(create=(build_claim(snapshot.namespace, pods),))
    if claim["metadata"].get("deletionTimestamp"):
        return Plan()
    placement = snapshot.placement
    endpoints = {placement.hub_endpoint, *(snapshot.endpoints or ())} - {""}
    wanted = build_policies(ClaimOwner.of(claim), endpoints, placement.allow_private_hosts, build_callers(pods))
    found = {policy["metadata"]["name"]: policy for policy in snapshot.store.policies}
    return Plan(apply=tuple(policy for policy in wanted if not _is_foreign(policy, found)))


def _is_foreign(wanted: Manifest, found: dict[str, Manifest]) -> bool:
    """Whether somebody else has a policy of that name; the objects that wait for ours say so."""
    there = found.get(wanted["metadata"]["name"])
    return there is not None and check_owner(wanted, there) is not None
