"""plan_inferenceservice: find the file to serve, size the engine, keep it running, tell the address."""

from datetime import datetime

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import InferenceServiceStatus
from slm_operator.core.canary_scene import CanaryScene, Rollout, pause
from slm_operator.core.companions import tell_companions
from slm_operator.core.conditions import Verdict, build_conditions, build_events, dump_status
from slm_operator.core.engines import count, judge_engines
from slm_operator.core.manifests.canary import canary_key, read_weights
from slm_operator.core.manifests.deployment import (
    Weights,
    address_url,
    build_budget,
    build_deployment,
    build_selector,
    build_service,
    served_weights,
)
from slm_operator.core.manifests.metadata import is_controlled_by, is_predecessors
from slm_operator.core.placing import asked_memory, find_variants, judge_unscheduled
from slm_operator.core.plan import EventRecord, Manifest, ObjectKey, Plan, key_of
from slm_operator.core.plan_canary import plan_canary
from slm_operator.core.plan_claims import plan_claims
from slm_operator.core.scaling import build_scaled, judge_waking, judge_zero, look_again
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.service_snapshot import ServiceSnapshot
from slm_operator.core.serving import Wanted, build_demand, build_engine, find_wanted
from slm_operator.core.store import check_store

NODES_SECONDS = 60.0
"""How soon a service that fits nowhere looks at the nodes again."""
EXPECTED = frozenset(
    {
        *(Reason.MODEL_NOT_FOUND, Reason.MODEL_NOT_READY, Reason.QUANT_JOB_NOT_FOUND, Reason.QUANT_JOB_NOT_READY),
        *(Reason.STORE_NOT_READY, Reason.STORE_BUSY, Reason.CONVERTING, Reason.LINKING, Reason.STARTING, Reason.READY),
        *(Reason.COMPARING, Reason.SCALED_TO_ZERO),
    }
)
"""What every service goes through: its conditions tell it, and a thousand services cost a thousand Events less."""


def plan_inferenceservice(snapshot: ServiceSnapshot, now: datetime) -> Plan:
    """What to do for one InferenceService."""
    service, suspended = snapshot.service, snapshot.service.spec.suspend
    sequence = Sequence(
        service,
        snapshot.children,
        snapshot.placement,
        now,
        store=snapshot.store,
        scheduling=service.spec,
        suspended=suspended,
    )
    wanted = Wanted(rollout=Rollout(status=service.status.canary))
    try:
        find_wanted(snapshot, sequence, wanted)
        _require_own_names(snapshot)
        _require_store(snapshot)
        wanted.children = _build_children(snapshot, wanted)
        if not suspended:
            wanted.rollout = _plan_canary(snapshot, wanted.children[0], now)
            wanted.children[:1] = wanted.rollout.deployments
        verdict = wanted.rollout.tell(_judge(snapshot, wanted))
    except Blocked as blocked:
        verdict = blocked.verdict
        wanted.rollout = Rollout(status=pause(service.status.canary))
        if snapshot.replicas == 0 and not suspended and _is_ours(snapshot, snapshot.deployment):
            # What cannot be planned can still be stopped.
            sequence.delete.append(ObjectKey("Deployment", service.metadata.namespace, service.metadata.name))
            if _is_ours(snapshot, snapshot.canary.deployment):
                sequence.delete.append(canary_key(service))
    sequence.drop_superseded(finished=bool(wanted.children))
    about = ObjectKey("InferenceService", service.metadata.namespace, service.metadata.name)
    if wanted.children and snapshot.replicas <= 1 and _is_ours(snapshot, snapshot.budget) and not suspended:
        sequence.delete.append(ObjectKey("PodDisruptionBudget", about.namespace, about.name))
    claims = plan_claims(snapshot, wanted) if wanted.children and not suspended else Plan()
    return Plan(
        status=_build_status(snapshot, wanted, verdict, now),
        create=(*sequence.create, *claims.create),
        apply=() if suspended else tuple(wanted.children),
        delete=(*sequence.delete, *wanted.rollout.delete, *claims.delete),
        events=(
            *wanted.rollout.events,
            *(_scaling(snapshot, about) if wanted.children and not suspended else ()),
            *build_events(about, verdict, service.status.conditions, EXPECTED),
        ),
        requeue_after_seconds=look_again(snapshot.scaling, _due(verdict, sequence), wanted.rollout.look_again_seconds),
    )


def _due(verdict: Verdict, sequence: Sequence) -> float | None:
    """When to look again though nothing changes: of a node that comes no service is told."""
    return NODES_SECONDS if verdict.reason == Reason.DOES_NOT_FIT else sequence.requeue_after_seconds


def _judge(snapshot: ServiceSnapshot, wanted: Wanted) -> Verdict:
    if snapshot.service.spec.suspend:
        message = "Suspended: engines go on as they are. Set spec.suspend to false to follow the spec again."
        return Verdict("idle", Reason.SUSPENDED, message)
    if snapshot.replicas == 0 and snapshot.scaling is not None:
        return judge_zero(snapshot.scaling)
    if snapshot.replicas == 0:
        return Verdict("idle", Reason.STOPPED, "Scaled to zero replicas: set spec.replicas to 1 or more to serve.")
    url, deployment = address_url(snapshot.service, snapshot.address, snapshot.placement), wanted.children[0]
    verdict = judge_engines(snapshot.service, snapshot.deployment, snapshot.address, snapshot.pods, deployment, url)
    if verdict.reason == Reason.POD_WAITING and snapshot.published.nodes and wanted.choice:
        spec, accelerator = snapshot.service.spec, wanted.choice.accelerator
        variants = find_variants(snapshot.model, snapshot.quant_job)
        demand = build_demand(snapshot, wanted, asked_memory(spec, deployment))
        verdict = judge_unscheduled(verdict, demand, variants, spec, snapshot.published, accelerator)
    return judge_waking(snapshot.service, verdict)


def _plan_canary(snapshot: ServiceSnapshot, wanted: Manifest, now: datetime) -> Rollout:
    deployment = snapshot.deployment if _is_ours(snapshot, snapshot.deployment) else None
    url = address_url(snapshot.service, snapshot.address, snapshot.placement)
    return plan_canary(
        CanaryScene(
            snapshot.service,
            snapshot.quant_job,
            wanted,
            deployment,
            snapshot.address,
            snapshot.pods,
            url,
            snapshot.canary,
            now,
        )
    )


def _scaling(snapshot: ServiceSnapshot, about: ObjectKey) -> tuple[EventRecord, ...]:
    before = (snapshot.deployment or {}).get("spec", {}).get("replicas")
    return build_scaled(about, before, snapshot.replicas, snapshot.scaling)


def _build_status(snapshot: ServiceSnapshot, wanted: Wanted, verdict: Verdict, now: datetime) -> Manifest:
    """The status: what the engines that answer serve, which in a rollout is not yet what is wanted."""
    service, generation = snapshot.service, snapshot.service.metadata.generation
    deployment = snapshot.deployment if _is_ours(snapshot, snapshot.deployment) else None
    tried = wanted.rollout.status is not None and wanted.rollout.status.state != "Promoting"
    choice, before = wanted.choice, service.status
    known = wanted.weights.blob  # Else what was made before may be what is asked for again in a moment.
    made = wanted.weights if known else Weights(before.variant, before.digest)
    kept = read_weights(deployment["spec"]["template"]) if tried and deployment else made
    served = served_weights(snapshot.pods) or kept
    new = served == wanted.weights
    address = snapshot.address if _is_ours(snapshot, snapshot.address) else _planned(wanted, "Service")
    replicas, ready = count_engines(snapshot, deployment, applied=bool(wanted.children))
    work = (wanted.work if known else before.work_digest) if served.blob and served == made else ""
    status = InferenceServiceStatus(
        observed_generation=generation,
        conditions=build_conditions(verdict, service.status.conditions, generation, now),
        url=address_url(service, address, snapshot.placement),
        runtime=choice.runtime if choice else before.runtime,
        runtime_message=choice.message if choice else before.runtime_message,
        accelerator=choice.accelerator if choice else before.accelerator,
        choice_digest=wanted.choice_digest if choice else before.choice_digest,
        variant=served.variant,
        digest=served.blob,
        size_bytes=wanted.size_bytes if new else service.status.size_bytes,
        memory_bytes=(wanted.memory_bytes if new else 0) or (service.status.memory_bytes if served.blob else 0),
        context_size=(wanted.context_size if new else 0) or (before.context_size if served.blob else 0),
        companions=tell_companions(service, wanted.companions),
        replicas=replicas,
        ready_replicas=ready,
        selector=",".join(f"{key}={value}" for key, value in sorted(build_selector(service).items())),
        canary=wanted.rollout.status,
        work_digest=work,
        store_uid=(snapshot.store.uid if work and snapshot.store else "") if known else service.status.store_uid,
    )
    return dump_status(status)


def _planned(wanted: Wanted, kind: str) -> Manifest | None:
    """A child that is about to be applied: on a cluster its address is known before it is there."""
    return next((child for child in wanted.children if child["kind"] == kind), None)


def _is_ours(snapshot: ServiceSnapshot, child: Manifest | None) -> bool:
    return child is not None and is_controlled_by(child, snapshot.service)


def _require_own_names(snapshot: ServiceSnapshot) -> None:
    rollout = snapshot.service.spec.rollout
    canary = snapshot.canary.deployment if rollout is not None and rollout.canary is not None else None
    for child in (snapshot.deployment, snapshot.address, canary):
        if child is None or _is_ours(snapshot, child):
            continue
        if is_predecessors(snapshot.service, child):
            message = f"{key_of(child)} of an earlier InferenceService is still being removed."
            raise Blocked(Verdict("progressing", Reason.STARTING, message))
        message = f"{key_of(child)} exists and belongs to somebody else: rename it or this InferenceService."
        raise Blocked(Verdict("stalled", Reason.NAME_CONFLICT, message))


def _require_store(snapshot: ServiceSnapshot) -> None:
    """Engines that exist go on, whatever becomes of the claim."""
    problem = check_store(snapshot.store) if snapshot.store and snapshot.deployment is None else None
    # Reading may go on while the store is cleaned: what this service serves is among what is kept.
    if problem is not None and problem.reason != Reason.STORE_BUSY:
        raise Blocked(problem)


def _build_children(snapshot: ServiceSnapshot, wanted: Wanted) -> list[Manifest]:
    service, placement = snapshot.service, snapshot.placement
    engine = build_engine(snapshot, wanted)
    children = [build_deployment(service, engine, placement, snapshot.replicas), build_service(service, placement)]
    if snapshot.replicas > 1 and placement.pods is not None:
        children.append(build_budget(service))
    return children


def count_engines(snapshot: ServiceSnapshot, deployment: Manifest | None, *, applied: bool) -> tuple[int, int]:
    """Engines that exist and engines that answer.

    A Deployment that has just been applied says nothing yet, and then first counts what it is about to make: saying
    so at once saves every new service a write of its status.
    """
    if deployment is None or "observedGeneration" not in deployment.get("status", {}):
        coming = applied and snapshot.placement.pods is not None and not snapshot.service.spec.suspend
        return (snapshot.replicas if coming else 0), 0
    made = count(deployment, "availableReplicas") + count(deployment, "unavailableReplicas")
    exists = made if snapshot.placement.pods is not None else 0
    return max(count(deployment, "replicas"), exists), count(deployment, "readyReplicas")
