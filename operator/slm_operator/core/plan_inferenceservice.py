"""plan_inferenceservice: find the file to serve, size the engine, keep it running, tell the address."""

from dataclasses import dataclass, field
from datetime import datetime

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult
from slm_operator.api.inferenceservice import InferenceService, InferenceServiceStatus
from slm_operator.api.quantjob import QuantJob, VariantStatus
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.conclusion import build_step_digest, is_done
from slm_operator.core.conditions import (
    Verdict,
    build_conditions,
    build_events,
    describe_state,
    dump_status,
)
from slm_operator.core.engines import count, judge_engines
from slm_operator.core.fit_demand import Demand
from slm_operator.core.manifests.deployment import (
    Engine,
    Weights,
    address_url,
    build_budget,
    build_deployment,
    build_selector,
    build_service,
    served_weights,
)
from slm_operator.core.manifests.metadata import is_controlled_by, is_predecessors
from slm_operator.core.placement import Placement
from slm_operator.core.placing import asked_memory, find_variants, judge_unscheduled
from slm_operator.core.plan import EventRecord, Manifest, ObjectKey, Plan, key_of
from slm_operator.core.plan_quantjob import BASELINE_LABEL, check_model
from slm_operator.core.quantity import plan_threads
from slm_operator.core.resources import cpu_limit, step_memory
from slm_operator.core.runtimes.llama_cpp import build_command
from slm_operator.core.scaling import Scaling, build_scaled, judge_waking, judge_zero, look_again
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.sizes import serving_bytes
from slm_operator.core.steps import Children
from slm_operator.core.store import StoreView, check_store

RUNTIME_MESSAGE = "llama.cpp: it serves GGUF files, and no other engine is configured."
EXPECTED = frozenset(
    {
        *(Reason.MODEL_NOT_FOUND, Reason.MODEL_NOT_READY, Reason.QUANT_JOB_NOT_FOUND, Reason.QUANT_JOB_NOT_READY),
        *(Reason.STORE_NOT_READY, Reason.STORE_BUSY, Reason.CONVERTING, Reason.STARTING, Reason.READY),
        Reason.SCALED_TO_ZERO,
    }
)
"""What every service goes through: its conditions tell it, and a thousand services cost a thousand Events less."""


@dataclass(frozen=True)
class ServiceSnapshot:
    """Everything the planner looks at."""

    service: InferenceService
    model: SLMModel | None
    """What ``modelRef`` names, or the model of the QuantJob."""
    quant_job: QuantJob | None
    children: Children
    """Jobs of the service itself (it converts when it serves an unquantized model)."""
    deployment: Manifest | None
    address: Manifest | None
    """The Service object."""
    pods: tuple[Manifest, ...]
    """Engine pods."""
    placement: Placement
    store: StoreView | None = None
    """The namespace's store on a cluster."""
    budget: Manifest | None = None
    """The PodDisruptionBudget."""
    scaling: Scaling | None = None
    """Where demand decides how many engines there are."""
    nodes: tuple[Manifest, ...] = ()
    """The cluster's Nodes, where the scheduler finds none for an engine and they may be read."""

    @property
    def replicas(self) -> int:
        """Engines that are wanted."""
        return self.service.spec.replicas if self.scaling is None else self.scaling.replicas


@dataclass
class _Wanted:
    """What shall be served, as far as it is known."""

    weights: Weights = field(default_factory=Weights)
    size_bytes: int = 0
    memory_bytes: int = 0
    children: list[Manifest] = field(default_factory=list)


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
    wanted = _Wanted()
    try:
        _find_weights(snapshot, sequence, wanted)
        _require_own_names(snapshot)
        _require_store(snapshot)
        wanted.children = _build_children(snapshot, wanted)
        verdict = _judge(snapshot, wanted)
    except Blocked as blocked:
        verdict = blocked.verdict
        if snapshot.replicas == 0 and not suspended and _is_ours(snapshot, snapshot.deployment):
            # What cannot be planned can still be stopped.
            sequence.delete.append(ObjectKey("Deployment", service.metadata.namespace, service.metadata.name))
    sequence.drop_superseded(finished=bool(wanted.children))
    about = ObjectKey("InferenceService", service.metadata.namespace, service.metadata.name)
    if wanted.children and snapshot.replicas <= 1 and _is_ours(snapshot, snapshot.budget) and not suspended:
        sequence.delete.append(ObjectKey("PodDisruptionBudget", about.namespace, about.name))
    return Plan(
        status=_build_status(snapshot, wanted, verdict, now),
        create=tuple(sequence.create),
        apply=() if suspended else tuple(wanted.children),
        delete=tuple(sequence.delete),
        events=(
            *(_scaling(snapshot, about) if wanted.children and not suspended else ()),
            *build_events(about, verdict, service.status.conditions, EXPECTED),
        ),
        requeue_after_seconds=look_again(snapshot.scaling, sequence.requeue_after_seconds),
    )


def _judge(snapshot: ServiceSnapshot, wanted: _Wanted) -> Verdict:
    if snapshot.service.spec.suspend:
        message = "Suspended: engines go on as they are. Set spec.suspend to false to follow the spec again."
        return Verdict("idle", Reason.SUSPENDED, message)
    if snapshot.replicas == 0 and snapshot.scaling is not None:
        return judge_zero(snapshot.scaling)
    if snapshot.replicas == 0:
        return Verdict("idle", Reason.STOPPED, "Scaled to zero replicas: set spec.replicas to 1 or more to serve.")
    url, deployment = address_url(snapshot.service, snapshot.address, snapshot.placement), wanted.children[0]
    verdict = judge_engines(snapshot.service, snapshot.deployment, snapshot.address, snapshot.pods, deployment, url)
    if verdict.reason == Reason.POD_WAITING and snapshot.nodes:
        variants = find_variants(snapshot.model, snapshot.quant_job)
        demand = _build_demand(snapshot, wanted)
        verdict = judge_unscheduled(verdict, demand, variants, snapshot.service.spec, snapshot.nodes)
    return judge_waking(snapshot.service, verdict)


def _scaling(snapshot: ServiceSnapshot, about: ObjectKey) -> tuple[EventRecord, ...]:
    before = (snapshot.deployment or {}).get("spec", {}).get("replicas")
    return build_scaled(about, before, snapshot.replicas, snapshot.scaling)


def _build_status(snapshot: ServiceSnapshot, wanted: _Wanted, verdict: Verdict, now: datetime) -> Manifest:
    """The status: what the engines that answer serve, which in a rollout is not yet what is wanted."""
    service, generation = snapshot.service, snapshot.service.metadata.generation
    served = served_weights(snapshot.pods) or wanted.weights
    deployment = snapshot.deployment if _is_ours(snapshot, snapshot.deployment) else None
    address = snapshot.address if _is_ours(snapshot, snapshot.address) else _planned(wanted, "Service")
    replicas, ready = count_engines(snapshot, deployment, applied=bool(wanted.children))
    work = _work(snapshot) if served.blob and served == wanted.weights else ""
    known = wanted.weights.blob  # Else what was made before may be what is asked for again in a moment.
    status = InferenceServiceStatus(
        observed_generation=generation,
        conditions=build_conditions(verdict, service.status.conditions, generation, now),
        url=address_url(service, address, snapshot.placement),
        runtime="llama.cpp" if served.blob else "",
        runtime_message=RUNTIME_MESSAGE if served.blob else "",
        variant=served.variant,
        digest=served.blob,
        size_bytes=wanted.size_bytes if served == wanted.weights else service.status.size_bytes,
        memory_bytes=wanted.memory_bytes or (service.status.memory_bytes if served.blob else 0),
        replicas=replicas,
        ready_replicas=ready,
        selector=",".join(f"{key}={value}" for key, value in sorted(build_selector(service).items())),
        work_digest=work if known else service.status.work_digest,
        store_uid=(snapshot.store.uid if work and snapshot.store else "") if known else service.status.store_uid,
    )
    return dump_status(status)


def _planned(wanted: _Wanted, kind: str) -> Manifest | None:
    """A child that is about to be applied: on a cluster its address is known before it is there."""
    return next((child for child in wanted.children if child["kind"] == kind), None)


def _find_weights(snapshot: ServiceSnapshot, sequence: Sequence, wanted: _Wanted) -> None:
    spec = snapshot.service.spec
    if spec.model_ref is not None:
        missing = check_model(spec.model_ref.name, snapshot.model, snapshot.placement)
        if missing is not None or snapshot.model is None:
            raise Blocked(missing or Verdict("progressing", Reason.MODEL_NOT_FOUND, ""))
        model, status = snapshot.model.status, snapshot.service.status
        convert = specs.ConvertSpec(model=model.digest, store=snapshot.placement.store)
        if is_done(status, _work(snapshot), snapshot.store):
            sequence.keep(convert, "convert")
            wanted.weights, wanted.size_bytes = Weights(BASELINE_LABEL, status.digest), status.size_bytes
            return
        memory = step_memory(convert, model.shape, model.size_bytes)
        made = sequence.require(convert, "convert", ArtifactResult, memory)
        wanted.weights, wanted.size_bytes = Weights(BASELINE_LABEL, made.blob), made.size_bytes
    else:
        variant = find_variant(snapshot)
        wanted.weights, wanted.size_bytes = Weights(variant.type, variant.blob), variant.size_bytes


def _work(snapshot: ServiceSnapshot) -> str:
    """Identity of the conversion; empty where a variant is served that a QuantJob has made."""
    if snapshot.service.spec.model_ref is None or snapshot.model is None:
        return ""
    return build_step_digest(snapshot.service, snapshot.placement, snapshot.model.status.digest)


def find_variant(snapshot: ServiceSnapshot) -> VariantStatus:
    """The variant that ``quantJobRef`` means; raises Blocked with the reason when there is none to serve."""
    wanted, job = snapshot.service.spec.quant_job_ref, snapshot.quant_job
    if wanted is None or job is None:
        name = wanted.name if wanted else ""
        message = f"QuantJob {name} does not exist in this namespace; apply it and this object goes on by itself."
        raise Blocked(Verdict("progressing", Reason.QUANT_JOB_NOT_FOUND, message))
    ready = next((item for item in job.status.conditions if item.type == "Ready"), None)
    stalled = any(item.type == "Stalled" and item.status == "True" for item in job.status.conditions)
    name = wanted.variant or job.status.selected
    found = next((item for item in job.status.variants if item.type == name), None)
    concluded = ready is not None and (ready.status == "True" or stalled)
    # A variant that was asked for by name need not wait for those that are still measured.
    if found is not None and found.gate == "Passed" and (concluded or wanted.variant):
        return found
    if ready is not None and concluded:
        detail = found.message if found is not None else (ready.message if not name else "it was not made")
        message = f"QuantJob {wanted.name} offers no variant {name or 'at all'}: {detail}"
        raise Blocked(Verdict("stalled", Reason.VARIANT_NOT_AVAILABLE, message))
    message = f"QuantJob {wanted.name} has not finished: {describe_state(job.status.conditions)}"
    raise Blocked(Verdict("progressing", Reason.QUANT_JOB_NOT_READY, message))


def _is_ours(snapshot: ServiceSnapshot, child: Manifest | None) -> bool:
    return child is not None and is_controlled_by(child, snapshot.service)


def _require_own_names(snapshot: ServiceSnapshot) -> None:
    for child in (snapshot.deployment, snapshot.address):
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


def _build_children(snapshot: ServiceSnapshot, wanted: _Wanted) -> list[Manifest]:
    service, placement = snapshot.service, snapshot.placement
    context = _context_size(snapshot)
    shape = snapshot.model.status.shape if snapshot.model else None
    if shape is not None:
        wanted.memory_bytes = serving_bytes(shape, wanted.size_bytes, context, service.spec.parallel).total
    command = build_command(
        placement.engine_command,
        f"{placement.store}/blobs/sha256/{wanted.weights.blob.removeprefix('sha256:')}",
        service.metadata.name,
        context_size=context,
        parallel=service.spec.parallel,
        threads=plan_threads(cpu_limit(service.spec.resources, placement.pods), placement.machine_cpus),
        host=placement.listen_host,
    )
    command += service.spec.extra_args
    engine = Engine(command, wanted.weights, wanted.size_bytes, wanted.memory_bytes)
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


def _build_demand(snapshot: ServiceSnapshot, wanted: _Wanted) -> Demand:
    """What one engine needs of a node."""
    spec, model = snapshot.service.spec, snapshot.model
    return Demand(
        shape=model.status.shape if model else None,
        weights_bytes=wanted.size_bytes,
        context_size=_context_size(snapshot),
        slots=spec.parallel,
        variant=wanted.weights.variant,
        requested_bytes=asked_memory(spec, wanted.children[0]),
    )


def _context_size(snapshot: ServiceSnapshot) -> int:
    longest = snapshot.model.status.context_length if snapshot.model else 0
    wanted = snapshot.service.spec.context_size
    return min(wanted, longest) if longest else wanted
