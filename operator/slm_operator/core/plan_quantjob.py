"""plan_quantjob: convert, make every variant, measure each, gate, select, report."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from datetime import datetime

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, BenchmarkResult, EvaluateResult, ReportResult
from slm_operator.api.quantjob import DEFAULT_VARIANTS, QuantJob, QuantJobStatus, VariantStatus
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.conditions import Verdict, build_conditions, build_events
from slm_operator.core.gate import judge_variant, select_variant
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
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.steps import Children

BASELINE_LABEL = "baseline"


@dataclass(frozen=True)
class QuantSnapshot:
    """Everything the planner looks at."""

    job: QuantJob
    model: SLMModel | None
    """What ``modelRef`` names; None when it does not exist."""
    children: Children
    placement: Placement


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


def check_model(name: str, model: SLMModel | None) -> Verdict | None:
    """Why a referenced model cannot be used yet, or None."""
    if model is None:
        message = f"SLMModel {name} does not exist in this namespace; apply it and this object goes on by itself."
        return Verdict("progressing", Reason.MODEL_NOT_FOUND, message)
    ready = next((item for item in model.status.conditions if item.type == "Ready"), None)
    current = model.status.observed_generation == model.metadata.generation
    if ready is None or ready.status != "True" or not current:
        detail = f"{ready.reason}: {ready.message}" if ready else "it was not looked at yet"
        return Verdict("progressing", Reason.MODEL_NOT_READY, f"SLMModel {name} is not Ready: {detail}")
    return None


def plan_quantjob(snapshot: QuantSnapshot, now: datetime) -> Plan:
    """What to do for one QuantJob."""
    job = snapshot.job
    types = tuple(job.spec.variants) or DEFAULT_VARIANTS
    known = _Progress(None, [VariantStatus(type=name, forecast_bytes=_forecast(snapshot, name)) for name in types])
    sequence = Sequence(
        job,
        snapshot.children,
        snapshot.placement,
        now,
        resources=job.spec.resources,
        backoff_limit=job.spec.backoff_limit,
        suspended=job.spec.suspend,
    )
    try:
        verdict = _walk(snapshot, sequence, known)
    except Blocked as blocked:
        verdict = blocked.verdict
    sequence.drop_superseded(finished=known.report is not None)
    return _build_plan(snapshot, sequence, known, verdict, now)


def _forecast(snapshot: QuantSnapshot, name: str) -> int:
    if snapshot.model is None:
        return 0
    return next((row.size_bytes for row in snapshot.model.status.forecast if row.type == name), 0)


def _walk(snapshot: QuantSnapshot, sequence: Sequence, known: _Progress) -> Verdict:
    missing = check_model(snapshot.job.spec.model_ref.name, snapshot.model)
    if missing is not None or snapshot.model is None:
        raise Blocked(missing or Verdict("progressing", Reason.MODEL_NOT_FOUND, ""))
    store = snapshot.placement.store
    convert = specs.ConvertSpec(model=snapshot.model.status.digest, store=store)
    base = sequence.require(convert, "convert", ArtifactResult)
    known.baseline = _made(VariantStatus(type=BASELINE_LABEL), base)
    for index, variant in enumerate(known.variants):
        spec = specs.QuantizeSpec(gguf=base.manifest, type=variant.type, threads=_threads(snapshot), store=store)
        try:
            made = sequence.require(spec, f"quantize-{variant.type}", ArtifactResult)
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
    return _conclude(snapshot, snapshot.model, sequence, known)


def _threads(snapshot: QuantSnapshot) -> int:
    return plan_threads(snapshot.job.spec.resources.limits.get("cpu", ""), snapshot.placement.machine_cpus)


def _made(variant: VariantStatus, made: ArtifactResult) -> VariantStatus:
    update = {"digest": made.manifest, "blob": made.blob, "size_bytes": made.size_bytes}
    return variant.model_copy(update=update)


def _measure(
    snapshot: QuantSnapshot, sequence: Sequence, known: _Progress, variant: VariantStatus, baseline: str
) -> VariantStatus:
    spec, store, threads = snapshot.job.spec, snapshot.placement.store, _threads(snapshot)
    evaluate = specs.EvaluateSpec(
        gguf=variant.digest,
        baseline=baseline,
        text=spec.evaluation.text,
        context_size=spec.evaluation.context_size,
        chunks=spec.evaluation.chunks,
        threads=threads,
        store=store,
    )
    found = sequence.require(evaluate, f"evaluate-{variant.type}", EvaluateResult)
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
        speed = sequence.require(benchmark, f"benchmark-{variant.type}", BenchmarkResult)
        known.measured[variant.type] = Measured(found, speed)
        update["prompt_tokens_per_second"] = speed.prompt_tokens_per_second
        update["tokens_per_second"] = speed.generate_tokens_per_second
        update["tokens_per_second_spread"] = speed.generate_tokens_per_second_spread
    return variant.model_copy(update=update)


def _conclude(snapshot: QuantSnapshot, model: SLMModel, sequence: Sequence, known: _Progress) -> Verdict:
    goal = snapshot.job.spec.goal
    known.selected, known.selection_message = select_variant(known.variants, goal, _serving(snapshot, known.variants))
    known.report = sequence.require(_report_spec(snapshot, model, known), "report", ReportResult)
    sequence.progress = ""
    if not known.selected:
        return Verdict("stalled", Reason.NO_VARIANT_PASSED, known.selection_message)
    return Verdict("ready", Reason.SUCCEEDED, known.selection_message)


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


def _build_plan(snapshot: QuantSnapshot, sequence: Sequence, known: _Progress, verdict: Verdict, now: datetime) -> Plan:
    job, generation = snapshot.job, snapshot.job.metadata.generation
    if known.report and known.selected:
        size = next(variant.size_bytes for variant in known.variants if variant.type == known.selected)
        verdict = replace(verdict, message=f"{verdict.message} It takes {format_bytes(size)}.")
    status = QuantJobStatus(
        observed_generation=generation,
        conditions=build_conditions(verdict, job.status.conditions, generation, now, is_job=True),
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
    )
    return Plan(
        status=status.model_dump(mode="json", by_alias=True, exclude_none=True),
        apply=tuple(sequence.apply),
        delete=tuple(sequence.delete),
        events=build_events(
            ObjectKey("QuantJob", job.metadata.namespace, job.metadata.name), verdict, job.status.conditions
        ),
        requeue_after_seconds=sequence.requeue_after_seconds,
    )
