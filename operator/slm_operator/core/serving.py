"""What a service serves, and with which engine: the weights by name, the choice, the order to the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, SnapshotResult
from slm_operator.api.inferenceservice import AcceleratorStatus, CompanionStatus
from slm_operator.api.quantjob import VariantStatus
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.canary_scene import Rollout
from slm_operator.core.choosing import AUTO, Choice, Wish, choose_engine
from slm_operator.core.companions import ADAPTER, DRAFT, PROJECTOR, find_companions, require_companions
from slm_operator.core.conclusion import build_step_digest, is_done
from slm_operator.core.conditions import Verdict, describe_state
from slm_operator.core.fit_demand import Adapters, Demand, Draft
from slm_operator.core.manifests.deployment import Engine, Weights
from slm_operator.core.manifests.metadata import ANNOTATION_RETRY
from slm_operator.core.model_checks import check_model, require_model
from slm_operator.core.placement import LLAMA_CPP
from slm_operator.core.placing import find_variants
from slm_operator.core.plan import Manifest
from slm_operator.core.plan_quantjob import BASELINE_LABEL
from slm_operator.core.pods import find_unschedulable, is_ready
from slm_operator.core.quantity import plan_threads
from slm_operator.core.resources import cpu_limit, step_memory
from slm_operator.core.runtimes import loads_folders
from slm_operator.core.runtimes.order import Order
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.service_snapshot import ServiceSnapshot
from slm_operator.core.sizes import BATCH_TOKENS

CHOSEN_BY = {
    *("runtime", "accelerator", "tensor_parallel_size", "context_size", "parallel", "extra_args", "resources"),
    *("node_selector", "tolerations", "task"),
}
"""Fields of a spec on which the choice of an engine depends, beside what is served."""


@dataclass
class Wanted:
    """What shall be served, as far as it is known."""

    weights: Weights = field(default_factory=Weights)
    size_bytes: int = 0
    memory_bytes: int = 0
    context_size: int = 0
    choice: Choice | None = None
    choice_digest: str = ""
    work: str = ""
    """Identity of the step that made what is served; empty where a variant is served that a QuantJob has made."""
    companions: dict[str, CompanionStatus] = field(default_factory=dict)
    """By role, what is loaded beside it."""
    children: list[Manifest] = field(default_factory=list)
    rollout: Rollout = field(default_factory=Rollout)


@dataclass(frozen=True)
class _Source:
    """What the service refers to, ready to be served."""

    formats: tuple[str, ...]
    identity: str
    """Digest of the model, or of the variant's file."""
    size_bytes: int
    companions: Mapping[str, SLMModel]
    """By role, what is loaded beside it."""
    variant: str = ""
    not_convertible: str = ""
    """Why no GGUF can be made of it, as a sentence; empty where it can be, or is one."""


def find_wanted(snapshot: ServiceSnapshot, sequence: Sequence, wanted: Wanted) -> None:
    """Find what is served and by which engine, and have it made; raises Blocked until all of it is there."""
    source = _find_source(snapshot)
    wanted.choice_digest = _choice_digest(snapshot, source)
    wanted.choice = _choose(snapshot, source, wanted.choice_digest)
    if source.variant:
        wanted.weights, wanted.size_bytes = Weights(source.variant, source.identity), source.size_bytes
    else:
        _require_baseline(snapshot, sequence, wanted)
    as_folders = loads_folders(wanted.choice.runtime, snapshot.placement)
    blob = wanted.weights.blob
    for each in require_companions(snapshot, sequence, source.companions, blob, as_folders=as_folders):
        wanted.companions[each.role] = each


def needs_nodes(snapshot: ServiceSnapshot) -> bool:
    """Whether Nodes must be looked at: for a choice that is still to be made, or that does not work out."""
    if snapshot.placement.pods is None:
        return False
    try:
        source = _find_source(snapshot)
    except Blocked:
        return False
    return _find_made(snapshot, _choice_digest(snapshot, source)) is None or any(map(find_unschedulable, snapshot.pods))


def build_engine(snapshot: ServiceSnapshot, wanted: Wanted) -> Engine:
    """The engine as it is ordered; ``wanted`` is told of the memory that is expected."""
    service, placement, choice = snapshot.service, snapshot.placement, wanted.choice
    assert choice is not None  # noqa: S101 - found before anything is built
    spec, devices = service.spec, choice.accelerator.count
    demand = build_demand(snapshot, wanted)
    serving = demand.serving
    same = service.status.digest == wanted.weights.blob
    # Of a variant whose model was deleted, what was known stands, so that its engines stay as they are.
    forecast = service.status.memory_bytes if snapshot.model is None and same else 0
    wanted.memory_bytes, wanted.context_size = serving.total if serving else forecast, demand.context_size
    folder = f"{placement.store}/{'snapshots' if loads_folders(choice.runtime, placement) else 'blobs'}/sha256"
    beside = {role: f"{folder}/{_hex(each.digest)}" for role, each in wanted.companions.items()}
    order = Order(
        model=f"{folder}/{_hex(wanted.weights.blob)}",
        draft=beside.get(DRAFT, ""),
        max_draft_tokens=spec.speculative.max_draft_tokens if spec.speculative else 0,
        projector=beside.get(PROJECTOR, ""),
        adapters={each.name: beside[ADAPTER + each.name] for each in spec.adapters},
        adapter_rank=demand.adapters.rank if demand.adapters else 0,
        adapters_bytes=demand.adapters.size_bytes if demand.adapters else 0,
        alias=service.metadata.name,
        context_size=demand.context_size,
        parallel=spec.parallel,
        threads=plan_threads(cpu_limit(spec.resources, placement.pods), placement.machine_cpus),
        host=placement.listen_host,
        devices=devices,
        shared_by=choice.accelerator.shared_by,
        kv_bytes=serving.kv_cache if serving else 0,
        task=spec.task,
        sleep_after_seconds=spec.autoscaling.sleep_after_seconds if spec.autoscaling else 0,
        contained=placement.pods is not None,
    )
    program = placement.engines[choice.runtime, choice.accelerator.vendor]
    return Engine(
        choice.runtime, program, order, wanted.weights, demand.loaded_bytes, wanted.memory_bytes, choice.accelerator
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def build_demand(snapshot: ServiceSnapshot, wanted: Wanted, requested_bytes: int = 0) -> Demand:
    """What one engine needs of a node."""
    beside = {role: each.size_bytes for role, each in wanted.companions.items()}
    demand = _demand(snapshot, wanted.size_bytes, wanted.weights.variant, beside)
    return replace(demand, engine=wanted.choice.runtime if wanted.choice else "", requested_bytes=requested_bytes)


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


def _find_source(snapshot: ServiceSnapshot) -> _Source:
    spec = snapshot.service.spec
    if spec.model_ref is None:
        variant = find_variant(snapshot)
        return _Source(("gguf",), variant.blob, variant.size_bytes, find_companions(snapshot), variant.type)
    status = require_model(check_model, spec.model_ref.name, snapshot.model, snapshot.placement).status
    beside = find_companions(snapshot)
    return _Source(
        (status.format,), status.digest, status.size_bytes, beside, not_convertible=status.conversion_message
    )


def _demand(snapshot: ServiceSnapshot, weights_bytes: int, variant: str, beside: Mapping[str, int]) -> Demand:
    """``beside`` tells by role how large the further models are, bytes."""
    context = _context_size(snapshot)
    return Demand(
        shape=(snapshot.model.status.shape or snapshot.model.status.dimensions) if snapshot.model else None,
        weights_bytes=weights_bytes,
        context_size=context,
        batch_tokens=BATCH_TOKENS if snapshot.service.spec.task == "generate" else context,
        slots=snapshot.service.spec.parallel,
        variant=variant,
        draft=_draft(snapshot, beside.get(DRAFT, 0)),
        projector_bytes=beside.get(PROJECTOR, 0),
        adapters=_adapters(snapshot, sum(size for role, size in beside.items() if role.startswith(ADAPTER))),
    )


def _draft(snapshot: ServiceSnapshot, size_bytes: int) -> Draft | None:
    speculative = snapshot.service.spec.speculative
    if speculative is None:
        return None
    model = snapshot.companions[speculative.draft_model_ref.name].status
    return Draft(model.shape or model.dimensions, size_bytes, speculative.max_draft_tokens)


def _adapters(snapshot: ServiceSnapshot, size_bytes: int) -> Adapters | None:
    models = [snapshot.companions[each.model_ref.name].status for each in snapshot.service.spec.adapters]
    return Adapters(len(models), max(model.rank for model in models), size_bytes) if models else None


def _context_size(snapshot: ServiceSnapshot) -> int:
    longest = snapshot.model.status.context_length if snapshot.model else snapshot.service.status.context_size
    wanted = snapshot.service.spec.context_size
    return min(wanted, longest) if longest else wanted


def _choose(snapshot: ServiceSnapshot, source: _Source, digest: str) -> Choice:
    """The choice that stands, or a new one: nodes come and go, and engines are not replaced because of that."""
    made = _find_made(snapshot, digest)
    if made is not None and not _is_refused(snapshot):
        return made
    variants = find_variants(snapshot.model, snapshot.quant_job)
    beside = {role: model.status.size_bytes for role, model in source.companions.items()}
    demand = _demand(snapshot, source.size_bytes, source.variant, beside)
    wish = Wish(snapshot.service.spec, source.formats, demand, variants, source.not_convertible)
    if made is None:
        return choose_engine(wish, snapshot.published, snapshot.placement)
    try:
        found = choose_engine(wish, snapshot.published, snapshot.placement)
    except Blocked:
        return made
    # Nodes may be on their way for what waits: only GPUs that are there and large enough are better than that.
    return found if found.accelerator.memory_bytes else made


def _find_made(snapshot: ServiceSnapshot, digest: str) -> Choice | None:
    """The choice that was made for this very wish, if its engine is still installed; of old, services had none."""
    service, status = snapshot.service, snapshot.service.status
    spec, engines = service.spec, snapshot.placement.engines
    if status.accelerator is not None and status.choice_digest == digest:
        choice = Choice(status.runtime, status.runtime_message, status.accelerator)
        return choice if (choice.runtime, choice.accelerator.vendor) in engines else None
    before = not status.choice_digest and status.runtime == LLAMA_CPP and snapshot.deployment is not None
    if before and snapshot.placement.pods is not None and (spec.runtime, spec.accelerator) == (AUTO, AUTO):
        message = (
            f"{LLAMA_CPP}: it served this before engines were chosen; another value of {ANNOTATION_RETRY} asks anew."
        )
        return Choice(LLAMA_CPP, message, AcceleratorStatus(message="CPUs."))
    return None


def _is_refused(snapshot: ServiceSnapshot) -> bool:
    """Whether no node takes its engines, and none answers."""
    return any(map(find_unschedulable, snapshot.pods)) and not any(map(is_ready, snapshot.pods))


def _choice_digest(snapshot: ServiceSnapshot, source: _Source) -> str:
    asked = snapshot.service.spec.model_dump(mode="json", include=CHOSEN_BY)
    # In whatever order a spec names them: engines take no more memory for that.
    beside = sorted(model.status.digest for model in source.companions.values())
    return build_step_digest(snapshot.service, snapshot.placement, source.identity, asked, *beside)


def _require_baseline(snapshot: ServiceSnapshot, sequence: Sequence, wanted: Wanted) -> None:
    """The unquantized model, as one GGUF file or, for vLLM, as the folder of its files."""
    assert snapshot.model is not None  # noqa: S101 - it was found before the engine was chosen
    assert wanted.choice is not None  # noqa: S101
    model, status, store = snapshot.model.status, snapshot.service.status, snapshot.placement.store
    as_folder = loads_folders(wanted.choice.runtime, snapshot.placement)
    inputs = (model.digest, "snapshot") if as_folder else (model.digest,)
    wanted.work = build_step_digest(snapshot.service, snapshot.placement, *inputs)
    kind = specs.SnapshotSpec if as_folder else specs.ConvertSpec
    step = kind(model=model.digest, store=store)
    if is_done(status, wanted.work, snapshot.store):
        sequence.keep(step, step.step)
        wanted.weights, wanted.size_bytes = Weights(BASELINE_LABEL, status.digest), status.size_bytes
    elif as_folder:
        linked = sequence.require(step, step.step, SnapshotResult)
        wanted.weights, wanted.size_bytes = Weights(BASELINE_LABEL, linked.manifest), linked.size_bytes
    else:
        made = sequence.require(step, step.step, ArtifactResult, step_memory(step, model.shape, model.size_bytes))
        wanted.weights, wanted.size_bytes = Weights(BASELINE_LABEL, made.blob), made.size_bytes
