"""plan_inferenceservice: find the file to serve, size the engine, keep it running, tell the address."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from datetime import datetime

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult
from slm_operator.api.inferenceservice import InferenceService, InferenceServiceStatus
from slm_operator.api.quantjob import QuantJob, VariantStatus
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.conditions import Verdict, build_conditions, build_events
from slm_operator.core.manifests.deployment import build_deployment, build_selector, build_service
from slm_operator.core.manifests.metadata import is_controlled_by
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest, ObjectKey, Plan, key_of
from slm_operator.core.plan_quantjob import BASELINE_LABEL, check_model
from slm_operator.core.quantity import plan_threads
from slm_operator.core.runtimes.llama_cpp import build_command
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.sizes import serving_bytes
from slm_operator.core.steps import Children

CRASHES_UNTIL_STALLED = 3
"""Restarts after which a service that never answered is called stalled rather than starting."""


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


@dataclass
class _Served:
    """What is known so far; a blocked walk still shows it."""

    variant: str = ""
    blob: str = ""
    size_bytes: int = 0
    memory_bytes: int = 0
    runtime_message: str = ""
    children: list[Manifest] = field(default_factory=list)


def plan_inferenceservice(snapshot: ServiceSnapshot, now: datetime) -> Plan:
    """What to do for one InferenceService."""
    service = snapshot.service
    sequence = Sequence(service, snapshot.children, snapshot.placement, now)
    served = _Served()
    try:
        _find_file(snapshot, sequence, served)
        _require_own_names(snapshot)
        served.children = _build_children(snapshot, served)
        verdict = judge_engines(snapshot)
    except Blocked as blocked:
        verdict = blocked.verdict
        if service.spec.replicas == 0 and _owns_deployment(snapshot):  # What cannot be planned can still be stopped.
            sequence.delete.append(ObjectKey("Deployment", service.metadata.namespace, service.metadata.name))
    generation = service.metadata.generation
    status = InferenceServiceStatus(
        observed_generation=generation,
        conditions=build_conditions(verdict, service.status.conditions, generation, now),
        url=_url(snapshot.address) if served.children else "",
        runtime="llama.cpp" if served.blob else "",
        runtime_message=served.runtime_message,
        variant=served.variant,
        digest=served.blob,
        memory_bytes=served.memory_bytes,
        replicas=_count(snapshot.deployment, "replicas"),
        ready_replicas=_count(snapshot.deployment, "readyReplicas"),
        selector=",".join(f"{key}={value}" for key, value in sorted(build_selector(service).items())),
    )
    about = ObjectKey("InferenceService", service.metadata.namespace, service.metadata.name)
    return Plan(
        status=status.model_dump(mode="json", by_alias=True, exclude_none=True),
        apply=(*sequence.apply, *served.children),
        delete=tuple(sequence.delete),
        events=build_events(about, verdict, service.status.conditions),
        requeue_after_seconds=sequence.requeue_after_seconds,
    )


def _find_file(snapshot: ServiceSnapshot, sequence: Sequence, served: _Served) -> None:
    spec = snapshot.service.spec
    if spec.model_ref is not None:
        missing = check_model(spec.model_ref.name, snapshot.model)
        if missing is not None or snapshot.model is None:
            raise Blocked(missing or Verdict("progressing", Reason.MODEL_NOT_FOUND, ""))
        convert = specs.ConvertSpec(model=snapshot.model.status.digest, store=snapshot.placement.store)
        made = sequence.require(convert, "convert", ArtifactResult)
        served.variant, served.blob, served.size_bytes = BASELINE_LABEL, made.blob, made.size_bytes
    else:
        variant = find_variant(snapshot)
        served.variant, served.blob, served.size_bytes = variant.type, variant.blob, variant.size_bytes
    served.runtime_message = "llama.cpp: it serves GGUF files, and no other engine is configured."


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
    if ready is not None and (ready.status == "True" or stalled):
        if found is not None and found.gate == "Passed":
            return found
        detail = found.message if found is not None else (ready.message if not name else "it was not made")
        message = f"QuantJob {wanted.name} offers no variant {name or 'at all'}: {detail}"
        raise Blocked(Verdict("stalled", Reason.VARIANT_NOT_AVAILABLE, message))
    detail = f"{ready.reason}: {ready.message}" if ready else "it was not looked at yet"
    raise Blocked(
        Verdict("progressing", Reason.QUANT_JOB_NOT_READY, f"QuantJob {wanted.name} has not finished: {detail}")
    )


def _owns_deployment(snapshot: ServiceSnapshot) -> bool:
    return snapshot.deployment is not None and is_controlled_by(snapshot.deployment, snapshot.service)


def _require_own_names(snapshot: ServiceSnapshot) -> None:
    for child in (snapshot.deployment, snapshot.address):
        if child is not None and not is_controlled_by(child, snapshot.service):
            message = f"{key_of(child)} exists and belongs to somebody else: rename it or this InferenceService."
            raise Blocked(Verdict("stalled", Reason.NAME_CONFLICT, message))


def _build_children(snapshot: ServiceSnapshot, served: _Served) -> list[Manifest]:
    service, placement = snapshot.service, snapshot.placement
    context = _context_size(snapshot)
    threads = plan_threads(service.spec.resources.limits.get("cpu", ""), placement.machine_cpus)
    shape = snapshot.model.status.shape if snapshot.model else None
    if shape is not None:
        served.memory_bytes = serving_bytes(shape, served.size_bytes, context, service.spec.parallel).total
    command = build_command(
        placement.engine_command,
        f"{placement.store}/blobs/sha256/{served.blob.removeprefix('sha256:')}",
        service.metadata.name,
        context_size=context,
        parallel=service.spec.parallel,
        threads=threads,
        host=placement.listen_host,
    )
    command += service.spec.extra_args
    return [build_deployment(service, command, placement, served.memory_bytes), build_service(service)]


def _context_size(snapshot: ServiceSnapshot) -> int:
    longest = snapshot.model.status.context_length if snapshot.model else 0
    wanted = snapshot.service.spec.context_size
    return min(wanted, longest) if longest else wanted


def judge_engines(snapshot: ServiceSnapshot) -> Verdict:
    """Whether the service answers, from what its Deployment, Service and Pods report."""
    wanted = snapshot.service.spec.replicas
    if wanted == 0:
        return Verdict("idle", Reason.STOPPED, "Scaled to zero replicas: set spec.replicas to 1 or more to serve.")
    problem = _address_problem(snapshot.address)
    if problem:
        return Verdict("stalled", Reason.PORT_IN_USE, problem)
    ready = _count(snapshot.deployment, "readyReplicas")
    url = _url(snapshot.address)
    if ready and url:
        return Verdict("ready", Reason.READY, f"{ready} of {wanted} engines answer at {url}/v1.")
    crash = _crash(snapshot.pods)
    if crash:
        return Verdict("stalled", Reason.ENGINE_CRASHED, crash)
    return Verdict("progressing", Reason.STARTING, f"Engines are starting: {ready} of {wanted} answer.")


def _count(deployment: Manifest | None, name: str) -> int:
    return int((deployment or {}).get("status", {}).get(name) or 0)


def _url(address: Manifest | None) -> str:
    ingress = (address or {}).get("status", {}).get("loadBalancer", {}).get("ingress", [])
    for item in ingress:
        for port in item.get("ports", []):
            return f"http://{item['ip']}:{port['port']}"
    return ""


def _address_problem(address: Manifest | None) -> str:
    for condition in (address or {}).get("status", {}).get("conditions", []):
        if condition.get("type") == Reason.PORT_IN_USE and condition.get("status") == "True":
            return str(condition.get("message", ""))
    return ""


def _crash(pods: Many[Manifest]) -> str:
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses", []):
            if status.get("restartCount", 0) >= CRASHES_UNTIL_STALLED:
                last = status.get("lastState", {}).get("terminated", {})
                detail = str(last.get("message", "")).strip() or "it left no message"
                count, code = status["restartCount"], last.get("exitCode", "unknown")
                return f"The engine ended {count} times, last with exit code {code}: {detail}"
    return ""
