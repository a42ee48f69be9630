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
from slm_operator.core.diff import first_difference, is_applied
from slm_operator.core.manifests.deployment import (
    Weights,
    build_deployment,
    build_selector,
    build_service,
    served_weights,
)
from slm_operator.core.manifests.metadata import is_controlled_by
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest, ObjectKey, Plan, key_of
from slm_operator.core.plan_quantjob import BASELINE_LABEL, check_model
from slm_operator.core.quantity import plan_threads
from slm_operator.core.runtimes.llama_cpp import build_command
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.sizes import serving_bytes
from slm_operator.core.steps import Children, parse_time

RUNTIME_MESSAGE = "llama.cpp: it serves GGUF files, and no other engine is configured."
HEALTHY_SECONDS = 60.0
"""An engine that ran this long before it ended was not crashing at its start: it is simply started again."""
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
class _Wanted:
    """What shall be served, as far as it is known."""

    weights: Weights = field(default_factory=Weights)
    size_bytes: int = 0
    memory_bytes: int = 0
    children: list[Manifest] = field(default_factory=list)


def plan_inferenceservice(snapshot: ServiceSnapshot, now: datetime) -> Plan:
    """What to do for one InferenceService."""
    service = snapshot.service
    sequence = Sequence(service, snapshot.children, snapshot.placement, now)
    wanted = _Wanted()
    try:
        _find_weights(snapshot, sequence, wanted)
        _require_own_names(snapshot)
        wanted.children = _build_children(snapshot, wanted)
        verdict = judge_engines(snapshot, wanted.children[0])
    except Blocked as blocked:
        verdict = blocked.verdict
        if service.spec.replicas == 0 and _is_ours(snapshot, snapshot.deployment):
            # What cannot be planned can still be stopped.
            sequence.delete.append(ObjectKey("Deployment", service.metadata.namespace, service.metadata.name))
    sequence.drop_superseded(finished=bool(wanted.children))
    about = ObjectKey("InferenceService", service.metadata.namespace, service.metadata.name)
    return Plan(
        status=_build_status(snapshot, wanted, verdict, now),
        apply=(*sequence.apply, *wanted.children),
        delete=tuple(sequence.delete),
        events=build_events(about, verdict, service.status.conditions),
        requeue_after_seconds=sequence.requeue_after_seconds,
    )


def _build_status(snapshot: ServiceSnapshot, wanted: _Wanted, verdict: Verdict, now: datetime) -> Manifest:
    """The status: what the engines that answer serve, which in a rollout is not yet what is wanted."""
    service, generation = snapshot.service, snapshot.service.metadata.generation
    served = served_weights(snapshot.pods) or wanted.weights
    ours = _is_ours(snapshot, snapshot.deployment)
    status = InferenceServiceStatus(
        observed_generation=generation,
        conditions=build_conditions(verdict, service.status.conditions, generation, now),
        url=_url(snapshot.address) if _is_ours(snapshot, snapshot.address) else "",
        runtime="llama.cpp" if served.blob else "",
        runtime_message=RUNTIME_MESSAGE if served.blob else "",
        variant=served.variant,
        digest=served.blob,
        memory_bytes=wanted.memory_bytes or (service.status.memory_bytes if served.blob else 0),
        replicas=_count(snapshot.deployment, "replicas") if ours else 0,
        ready_replicas=_count(snapshot.deployment, "readyReplicas") if ours else 0,
        selector=",".join(f"{key}={value}" for key, value in sorted(build_selector(service).items())),
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _find_weights(snapshot: ServiceSnapshot, sequence: Sequence, wanted: _Wanted) -> None:
    spec = snapshot.service.spec
    if spec.model_ref is not None:
        missing = check_model(spec.model_ref.name, snapshot.model)
        if missing is not None or snapshot.model is None:
            raise Blocked(missing or Verdict("progressing", Reason.MODEL_NOT_FOUND, ""))
        convert = specs.ConvertSpec(model=snapshot.model.status.digest, store=snapshot.placement.store)
        made = sequence.require(convert, "convert", ArtifactResult)
        wanted.weights, wanted.size_bytes = Weights(BASELINE_LABEL, made.blob), made.size_bytes
    else:
        variant = find_variant(snapshot)
        wanted.weights, wanted.size_bytes = Weights(variant.type, variant.blob), variant.size_bytes


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
    detail = f"{ready.reason}: {ready.message}" if ready else "it was not looked at yet"
    raise Blocked(
        Verdict("progressing", Reason.QUANT_JOB_NOT_READY, f"QuantJob {wanted.name} has not finished: {detail}")
    )


def _is_ours(snapshot: ServiceSnapshot, child: Manifest | None) -> bool:
    return child is not None and is_controlled_by(child, snapshot.service)


def _require_own_names(snapshot: ServiceSnapshot) -> None:
    for child in (snapshot.deployment, snapshot.address):
        if child is not None and not _is_ours(snapshot, child):
            message = f"{key_of(child)} exists and belongs to somebody else: rename it or this InferenceService."
            raise Blocked(Verdict("stalled", Reason.NAME_CONFLICT, message))


def _build_children(snapshot: ServiceSnapshot, wanted: _Wanted) -> list[Manifest]:
    service, placement = snapshot.service, snapshot.placement
    context = _context_size(snapshot)
    threads = plan_threads(service.spec.resources.limits.get("cpu", ""), placement.machine_cpus)
    shape = snapshot.model.status.shape if snapshot.model else None
    if shape is not None:
        wanted.memory_bytes = serving_bytes(shape, wanted.size_bytes, context, service.spec.parallel).total
    command = build_command(
        placement.engine_command,
        f"{placement.store}/blobs/sha256/{wanted.weights.blob.removeprefix('sha256:')}",
        service.metadata.name,
        context_size=context,
        parallel=service.spec.parallel,
        threads=threads,
        host=placement.listen_host,
    )
    command += service.spec.extra_args
    deployment = build_deployment(service, command, placement, wanted.memory_bytes, wanted.weights)
    return [deployment, build_service(service)]


def _context_size(snapshot: ServiceSnapshot) -> int:
    longest = snapshot.model.status.context_length if snapshot.model else 0
    wanted = snapshot.service.spec.context_size
    return min(wanted, longest) if longest else wanted


def judge_engines(snapshot: ServiceSnapshot, wanted: Manifest) -> Verdict:
    """Whether the service answers with what is ``wanted``, from what its Deployment, Service and Pods report."""
    replicas, url = snapshot.service.spec.replicas, _url(snapshot.address)
    if replicas == 0:
        return Verdict("idle", Reason.STOPPED, "Scaled to zero replicas: set spec.replicas to 1 or more to serve.")
    problem = _address_problem(snapshot.address)
    if problem:
        return Verdict("stalled", Reason.PORT_IN_USE, problem)
    ready, crash = _count(snapshot.deployment, "readyReplicas"), _crash(snapshot.pods, wanted)
    answering = ready > 0 and bool(url)
    if answering and _is_rolled_out(snapshot.deployment, wanted):
        detail = f" {crash}." if crash else ""
        return Verdict("ready", Reason.READY, f"{ready} of {replicas} engines answer at {url}/v1.{detail}")
    if crash:
        detail = f". The engines from before still answer at {url}/v1." if answering else ""
        return Verdict("stalled", Reason.ENGINE_CRASHED, crash + detail)
    if answering:
        new = _count(snapshot.deployment, "updatedReplicas")
        message = f"New engines are starting: {new} of {replicas}. Those from before answer at {url}/v1 until then."
        return Verdict("progressing", Reason.ROLLING_OUT, message)
    return Verdict("progressing", Reason.STARTING, f"Engines are starting: {ready} of {replicas} answer.")


def _is_rolled_out(deployment: Manifest | None, wanted: Manifest) -> bool:
    """Whether every engine that exists was started from the template that is wanted now."""
    if deployment is None or not is_applied(wanted, deployment):
        return False
    current = _count(deployment, "observedGeneration") >= deployment["metadata"].get("generation", 1)
    return current and _count(deployment, "updatedReplicas") == _count(deployment, "replicas")


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


def _crash(pods: Many[Manifest], wanted: Manifest) -> str:
    """How an engine of the ``wanted`` template ends again and again, or nothing."""
    template = wanted["spec"]["template"]["spec"]
    for pod in pods:
        if first_difference(template, pod.get("spec")) is not None:
            continue  # Of an earlier spec, and about to go.
        for status in pod.get("status", {}).get("containerStatuses", []):
            last = status.get("lastState", {}).get("terminated", {})
            often = status.get("restartCount", 0) >= CRASHES_UNTIL_STALLED
            if often and not status.get("ready") and _lasted_seconds(last) < HEALTHY_SECONDS:
                detail = str(last.get("message", "")).strip().rstrip(".") or "it left no message"
                count, code = status["restartCount"], last.get("exitCode", "unknown")
                return f"The engine ended {count} times, last with exit code {code}: {detail}"
    return ""


def _lasted_seconds(ended: Manifest) -> float:
    begin, end = (parse_time(ended.get(name, "")) for name in ("startedAt", "finishedAt"))
    return (end - begin).total_seconds() if begin and end else 0.0
