"""plan_quantjob: convert, make every variant, measure each, gate, select, report."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from datetime import datetime

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, BenchmarkResult, EvaluateResult, ReportResult
from slm_operator.api.quantjob import DEFAULT_VARIANTS, QuantJob, QuantJobStatus, VariantStatus
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.conclusion import build_work_digest, is_done
from slm_operator.core.conditions import (
    Verdict,
    build_conditions,
    build_events,
    concluded_at,
    dump_status,
)
from slm_operator.core.gate import judge_variant, select_variant
from slm_operator.core.model_checks import check_model
from slm_operator.core.placement import Placement
from slm_operator.core.plan import ObjectKey, Plan
from slm_operator.core.quantity import format_bytes, plan_threads
from slm_operator.core.quantjob_report import (
    Measured,
    build_gate,
    build_manifests,
    build_method,
    build_origin,
    build_row,
)
from slm_operator.core.resources import cpu_limit, step_memory
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.steps import Children
from slm_operator.core.store import StoreView

BASELINE_LABEL = "baseline"


@dataclass(frozen=True)
class QuantSnapshot:
    """Everything the planner looks at."""

    job: QuantJob
    model: SLMModel | None
    """What ``modelRef`` names; None when it does not exist."""
    children: Children
    placement: Placement
    store: StoreView | None = None
    """The namespace's store on a cluster."""


@dataclass
class _Progress:
    """What is known so far; filled step by step, so that a blocked sequence still shows it."""

    baseline: VariantStatus | None
    variants: list[VariantStatus]
    selected: str = ""
    selection_message: str = ""
    report: ReportResult | None = None
    tool: str = ""
    measured: dict[str, Measured] = field(default_factory=dict)
    """By type, with the baseline under its label."""


def plan_quantjob(snapshot: QuantSnapshot, now: datetime) -> Plan:
    """What to do for one QuantJob."""
    job, spec = snapshot.job, snapshot.job.spec
    sequence = Sequence(
        job,
        snapshot.children,
        snapshot.placement,
        now,
        store=snapshot.store,
        resources=spec.resources,
        scheduling=spec,
        backoff_limit=spec.backoff_limit,
        suspended=spec.suspend,
    )
    missing = check_model(spec.model_ref.name, snapshot.model, snapshot.placement)
    if is_done(job.status, _work(snapshot, missing), snapshot.store):
        # Also while the model is away: what was made of it is still there, and still referred to.
        if missing is None:
            sequence.expire(concluded_at(job.status.conditions), spec.ttl_seconds_after_finished)
        return _build_plan(snapshot, sequence, job.status, missing or _done(job.status), now)
    types = tuple(spec.variants) or DEFAULT_VARIANTS
    known = _Progress(None, [VariantStatus(type=name, forecast_bytes=_forecast(snapshot, name)) for name in types])
    try:
        _walk(snapshot, sequence, known, missing)
        status = _build_status(snapshot, sequence, known)
        verdict = _done(status)
    except Blocked as blocked:
        status, verdict = _build_status(snapshot, sequence, known), blocked.verdict
    sequence.drop_superseded(finished=known.report is not None)
    return _build_plan(snapshot, sequence, status, verdict, now)


def _work(snapshot: QuantSnapshot, missing: Verdict | None) -> str:
    """Identity of the work: on the model as it is, or as it was while that is not known."""
    job = snapshot.job
    digest = job.status.model_digest if missing or snapshot.model is None else snapshot.model.status.digest
    # Speed depends on the threads, and they on the limit.
    cpu = job.spec.resources.limits.get("cpu", "")
    return build_work_digest(job, snapshot.placement, digest, cpu)


def _forecast(snapshot: QuantSnapshot, name: str) -> int:
    if snapshot.model is None:
        return 0
    return next((row.size_bytes for row in snapshot.model.status.forecast if row.type == name), 0)


def _walk(snapshot: QuantSnapshot, sequence: Sequence, known: _Progress, missing: Verdict | None) -> None:
    if missing is not None or snapshot.model is None:
        raise Blocked(missing or Verdict("progressing", Reason.MODEL_NOT_FOUND, ""))
    _require_convertible(snapshot.model)
    _require_text(snapshot)
    store, model, shape = snapshot.placement.store, snapshot.model.status, snapshot.model.status.shape
    convert = specs.ConvertSpec(model=model.digest, store=store)
    base = sequence.require(convert, "convert", ArtifactResult, step_memory(convert, shape, model.size_bytes))
    known.baseline = _made(VariantStatus(type=BASELINE_LABEL), base)
    for index, variant in enumerate(known.variants):
        spec = specs.QuantizeSpec(gguf=base.manifest, type=variant.type, threads=_threads(snapshot), store=store)
        memory = step_memory(spec, shape, base.size_bytes)
        try:
            made = sequence.require(spec, f"quantize-{variant.type}", ArtifactResult, memory)
        except Blocked as blocked:
            if blocked.verdict.state == "stalled":
                why = {"reason": blocked.verdict.reason.value, "message": blocked.verdict.message}
                known.variants[index] = variant.model_copy(update=why)
            raise
        known.variants[index] = _made(variant, made)
        known.tool = made.tool
    known.baseline = _measure(snapshot, sequence, known, known.baseline, "")
    for index, variant in enumerate(known.variants):
        measured = _measure(snapshot, sequence, known, variant, base.manifest)
        known.variants[index] = judge_variant(measured, known.baseline, snapshot.job.spec.gate)
    _conclude(snapshot, snapshot.model, sequence, known)


def _require_convertible(model: SLMModel) -> None:
    if why_not := model.status.conversion_message:
        message = f"No variant can be made of SLMModel {model.metadata.name}, which vllm alone serves. {why_not}"
        raise Blocked(Verdict("stalled", Reason.NOT_CONVERTIBLE, message))


def _require_text(snapshot: QuantSnapshot) -> None:
    text = snapshot.job.spec.evaluation.text
    if text and snapshot.placement.pods is not None:
        message = (
            f"spec.evaluation.text names {text} on one machine, which the pods of a cluster cannot see: leave it out "
            "to measure on the text that ships with the pipelines."
        )
        raise Blocked(Verdict("stalled", Reason.SOURCE_NOT_SUPPORTED, message))


def _threads(snapshot: QuantSnapshot) -> int:
    placement = snapshot.placement
    return plan_threads(cpu_limit(snapshot.job.spec.resources, placement.pods), placement.machine_cpus)


def _made(variant: VariantStatus, made: ArtifactResult) -> VariantStatus:
    update = {"digest": made.manifest, "blob": made.blob, "size_bytes": made.size_bytes}
    return variant.model_copy(update=update)


def _measure(
    snapshot: QuantSnapshot, sequence: Sequence, known: _Progress, variant: VariantStatus, baseline: str
) -> VariantStatus:
    spec, store, threads = snapshot.job.spec, snapshot.placement.store, _threads(snapshot)
    shape = snapshot.model.status.shape if snapshot.model else None
    evaluate = specs.EvaluateSpec(
        gguf=variant.digest,
        baseline=baseline,
        text=spec.evaluation.text,
        context_size=spec.evaluation.context_size,
        chunks=spec.evaluation.chunks,
        threads=threads,
        store=store,
    )
    memory = step_memory(evaluate, shape, variant.size_bytes)
    found = sequence.require(evaluate, f"evaluate-{variant.type}", EvaluateResult, memory)
    update: dict[str, object] = {
        "perplexity": found.perplexity,
        "kl_divergence": found.kl_divergence,
        "top_one_agreement": found.top_one_agreement,
    }
    known.measured[variant.type] = Measured(found)
    if spec.benchmark.enabled:
        benchmark = specs.BenchmarkSpec(
            gguf=variant.digest,
            prompt_tokens=spec.benchmark.prompt_tokens,
            generate_tokens=spec.benchmark.generate_tokens,
            repetitions=spec.benchmark.repetitions,
            threads=threads,
            store=store,
        )
        memory = step_memory(benchmark, shape, variant.size_bytes)
        speed = sequence.require(benchmark, f"benchmark-{variant.type}", BenchmarkResult, memory)
        known.measured[variant.type] = Measured(found, speed)
        update["prompt_tokens_per_second"] = speed.prompt_tokens_per_second
        update["tokens_per_second"] = speed.generate_tokens_per_second
        update["tokens_per_second_spread"] = speed.generate_tokens_per_second_spread
    return variant.model_copy(update=update)


def _conclude(snapshot: QuantSnapshot, model: SLMModel, sequence: Sequence, known: _Progress) -> None:
    goal = snapshot.job.spec.goal
    known.selected, known.selection_message = select_variant(known.variants, goal, _serving(snapshot, known.variants))
    known.report = sequence.require(_report_spec(snapshot, model, known), "report", ReportResult)
    sequence.progress = ""


def _done(status: QuantJobStatus) -> Verdict:
    """What finished work says, as its status tells it."""
    if not status.selected:
        return Verdict("stalled", Reason.NO_VARIANT_PASSED, status.selection_message)
    size = next(variant.size_bytes for variant in status.variants if variant.type == status.selected)
    return Verdict("ready", Reason.SUCCEEDED, f"{status.selection_message} It takes {format_bytes(size)}.")


def _serving(snapshot: QuantSnapshot, variants: Many[VariantStatus]) -> dict[str, int]:
    forecast = snapshot.model.status.forecast if snapshot.model else []
    wanted = {variant.type for variant in variants}
    return {row.type: row.serving_bytes for row in forecast if row.type in wanted}


def _report_spec(snapshot: QuantSnapshot, model: SLMModel, known: _Progress) -> specs.ReportSpec:
    job, measured = snapshot.job, known.measured
    origin = build_origin(model)
    return specs.ReportSpec(
        title=f"{job.metadata.namespace}/{job.metadata.name}",
        model=f"{origin.source}@{origin.revision[:12]}",
        baseline=build_row(known.baseline or VariantStatus(type=BASELINE_LABEL), measured.get(BASELINE_LABEL)),
        variants=[build_row(variant, measured.get(variant.type)) for variant in known.variants],
        selected=known.selected,
        selection_message=known.selection_message,
        tool=known.tool,
        origin=origin,
        gate=build_gate(job),
        method=build_method(job, measured.get(BASELINE_LABEL)),
        manifests=build_manifests(job, model),
        store=snapshot.placement.store,
    )


def _build_status(snapshot: QuantSnapshot, sequence: Sequence, known: _Progress) -> QuantJobStatus:
    return QuantJobStatus(
        model_digest=snapshot.model.status.digest if snapshot.model else "",
        baseline=known.baseline,
        variants=known.variants,
        selected=known.selected if known.report else "",
        selection_message=known.selection_message,
        report_digest=known.report.manifest if known.report else "",
        report_html=known.report.html if known.report else "",
        tool=known.tool,
        step_seconds=sequence.step_seconds,
        progress=sequence.progress,
        results={} if known.report else sequence.answers,
        work_digest=_work(snapshot, None) if known.report else "",
        store_uid=sequence.store_uid,
    )


def _build_plan(
    snapshot: QuantSnapshot, sequence: Sequence, status: QuantJobStatus, verdict: Verdict, now: datetime
) -> Plan:
    job, generation = snapshot.job, snapshot.job.metadata.generation
    conditions = build_conditions(verdict, job.status.conditions, generation, now, is_job=True)
    told = status.model_copy(update={"observed_generation": generation, "conditions": conditions})
    about = ObjectKey("QuantJob", job.metadata.namespace, job.metadata.name)
    return Plan(
        status=dump_status(told),
        hold=sequence.hold,
        create=tuple(sequence.create),
        delete=tuple(sequence.delete),
        events=build_events(about, verdict, job.status.conditions),
        requeue_after_seconds=sequence.requeue_after_seconds,
    )
