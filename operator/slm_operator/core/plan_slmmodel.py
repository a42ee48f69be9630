"""plan_slmmodel: resolve, then acquire, then Ready."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import AcquireResult, ModelShape, ResolveResult
from slm_operator.api.slmmodel import Forecast, SLMModel, SLMModelStatus
from slm_operator.core.conclusion import build_work_digest, is_done
from slm_operator.core.conditions import Verdict, build_conditions, build_events, dump_status
from slm_operator.core.placement import Placement
from slm_operator.core.plan import ObjectKey, Plan
from slm_operator.core.quantity import format_bytes
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.sizes import QUANT_TYPES, gguf_bytes, parameter_class, serving_bytes
from slm_operator.core.steps import Children
from slm_operator.core.store import StoreView

FORECAST_TYPES = tuple(name for name in QUANT_TYPES if name not in {"F32", "F16", "BF16", "Q2_K_S"})
"""What a forecast tells, besides the unquantized file; Q2_K_S cannot be made without an importance matrix."""
FORECAST_CONTEXT = 4096
"""Context, tokens, that ``forecast[].servingBytes`` is stated for."""


@dataclass(frozen=True)
class ModelSnapshot:
    """Everything the planner looks at."""

    model: SLMModel
    children: Children
    placement: Placement
    store: StoreView | None = None
    """The namespace's store on a cluster."""


def plan_slmmodel(snapshot: ModelSnapshot, now: datetime) -> Plan:
    """What to do for one SLMModel."""
    model = snapshot.model
    work = build_work_digest(model, snapshot.placement)
    sequence = Sequence(
        model,
        snapshot.children,
        snapshot.placement,
        now,
        store=snapshot.store,
        suspended=model.spec.suspend,
    )
    if is_done(model.status, work, snapshot.store):
        return _build_plan(model, sequence, model.status, _done(model.status), now)
    facts = {}
    try:
        _require_source(snapshot)
        resolved = sequence.require(_resolve_spec(snapshot), "resolve", ResolveResult)
        facts = _facts(resolved)
        acquired = sequence.require(_acquire_spec(snapshot, resolved), "acquire", AcquireResult)
        facts |= {"digest": acquired.manifest, "work_digest": work}
        status = SLMModelStatus(**facts)
        verdict = _done(status)
    except Blocked as blocked:
        status, verdict = SLMModelStatus(**facts, progress=sequence.progress, results=sequence.answers), blocked.verdict
    sequence.drop_superseded(finished=verdict.state == "ready")
    status = status.model_copy(update={"store_uid": sequence.store_uid})
    return _build_plan(model, sequence, status, verdict, now)


def _build_plan(model: SLMModel, sequence: Sequence, status: SLMModelStatus, verdict: Verdict, now: datetime) -> Plan:
    generation, previous = model.metadata.generation, model.status.conditions
    conditions = build_conditions(verdict, previous, generation, now)
    told = status.model_copy(update={"observed_generation": generation, "conditions": conditions})
    about = ObjectKey("SLMModel", model.metadata.namespace, model.metadata.name)
    return Plan(
        status=dump_status(told),
        hold=sequence.hold,
        create=tuple(sequence.create),
        delete=tuple(sequence.delete),
        events=build_events(about, verdict, previous),
        requeue_after_seconds=sequence.requeue_after_seconds,
    )


def _require_source(snapshot: ModelSnapshot) -> None:
    path = snapshot.model.spec.source.path
    if path is not None and snapshot.placement.pods is not None:
        message = (
            f"spec.source.path names {path} on one machine, which the pods of a cluster cannot see: create another "
            "SLMModel with spec.source.huggingFace, whose endpoint may be a hub inside your network."
        )
        raise Blocked(Verdict("stalled", Reason.SOURCE_NOT_SUPPORTED, message))


def _source(snapshot: ModelSnapshot) -> specs.Source:
    source = snapshot.model.spec.source
    if source.hugging_face is None:
        return specs.Source(path=specs.LocalPath(path=source.path or ""))
    hub = source.hugging_face
    return specs.Source(
        hugging_face=specs.HuggingFace(
            repo=hub.repo,
            revision=hub.revision,
            allow_patterns=hub.allow_patterns,
            ignore_patterns=hub.ignore_patterns,
            endpoint=hub.endpoint,
            send_token=hub.token_secret_ref is not None or hub.endpoint in {"", snapshot.placement.hub_endpoint},
        )
    )


def _resolve_spec(snapshot: ModelSnapshot) -> specs.ResolveSpec:
    spec = snapshot.model.spec
    return specs.ResolveSpec(
        source=_source(snapshot),
        pin=specs.Pin(revision=spec.pin.revision, files=spec.pin.files),
        license_allow=spec.license.allow,
        allow_private_hosts=list(snapshot.placement.allow_private_hosts),
    )


def _acquire_spec(snapshot: ModelSnapshot, resolved: ResolveResult) -> specs.AcquireSpec:
    resolve = _resolve_spec(snapshot)
    return specs.AcquireSpec(
        source=resolve.source,
        revision=resolved.revision,
        files=resolved.files,
        pin=resolve.pin,
        license_allow=resolve.license_allow,
        allow_private_hosts=resolve.allow_private_hosts,
        store=snapshot.placement.store,
    )


def _facts(resolved: ResolveResult) -> dict[str, Any]:
    return {
        "revision": resolved.revision,
        "format": resolved.format,
        "architecture": resolved.architecture,
        "rank": resolved.rank,
        "parameters": resolved.parameters,
        "parameter_class": parameter_class(resolved.parameters) if resolved.parameters else "",
        "license": resolved.license,
        "context_length": resolved.context_length,
        "size_bytes": resolved.size_bytes,
        "files": resolved.file_count,
        "shape": resolved.shape,
        "dimensions": resolved.dimensions,
        "conversion_message": resolved.conversion_message,
        "forecast": build_forecast(resolved),
    }


def build_forecast(resolved: ResolveResult) -> list[Forecast]:
    """Exact size and serving memory for each type we can compute; empty where there is no shape."""
    shape = resolved.shape
    if shape is None:
        return []
    context = min(FORECAST_CONTEXT, resolved.context_length)
    rows = []
    for name in (shape.source_type, *(name for name in FORECAST_TYPES if _is_applicable(shape, name))):
        size = gguf_bytes(shape, name)
        rows.append(Forecast(type=name, size_bytes=size, serving_bytes=serving_bytes(shape, size, context, 1).total))
    return rows


def _is_applicable(shape: ModelShape, name: str) -> bool:
    rows = (shape.hidden_size, shape.intermediate_size, shape.heads * shape.head_dim)
    return all(row % QUANT_TYPES[name].block_size == 0 for row in rows)


def _done(status: SLMModelStatus) -> Verdict:
    number = f"{status.parameters:,} parameters ({status.parameter_class})" if status.parameters else ""
    what = ", ".join(
        filter(None, (status.architecture, number, f"{format_bytes(status.size_bytes)} verified and stored."))
    )
    if status.conversion_message:
        only = "Only engines that load safetensors themselves can serve it (vllm); a QuantJob cannot take it"
        what = f"{what} {only}: {status.conversion_message}"
    return Verdict("ready", Reason.READY, what)
