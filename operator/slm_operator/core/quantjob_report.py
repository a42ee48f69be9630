"""What the report step is told about a finished QuantJob."""

from dataclasses import dataclass
from typing import Any

from slm_contract import specs
from slm_contract.results import BenchmarkResult, EvaluateResult
from slm_operator.api.meta import API_VERSION
from slm_operator.api.quantjob import QuantJob, VariantStatus
from slm_operator.api.slmmodel import SLMModel


@dataclass(frozen=True)
class Measured:
    """Everything the steps answered about one file; the status keeps only part of it."""

    loss: EvaluateResult
    speed: BenchmarkResult | None = None


def build_row(variant: VariantStatus, measured: Measured | None) -> specs.VariantReport:
    """One line of the report."""
    loss, speed = (measured.loss, measured.speed) if measured else (None, None)
    return specs.VariantReport(
        type=variant.type,
        digest=variant.digest,
        size_bytes=variant.size_bytes,
        perplexity=variant.perplexity,
        kl_divergence=variant.kl_divergence,
        kl_divergence_p99=loss.kl_divergence_p99 if loss else None,
        top_one_agreement=variant.top_one_agreement,
        prompt_tokens_per_second=variant.prompt_tokens_per_second,
        prompt_tokens_per_second_spread=speed.prompt_tokens_per_second_spread if speed else None,
        generate_tokens_per_second=variant.tokens_per_second,
        generate_tokens_per_second_spread=speed.generate_tokens_per_second_spread if speed else None,
        gate_passed={"Passed": True, "Failed": False}.get(variant.gate),
        reason=variant.reason,
        message=variant.message,
    )


def build_origin(model: SLMModel) -> specs.ModelOrigin:
    """Where the weights came from."""
    hub, status = model.spec.source.hugging_face, model.status
    return specs.ModelOrigin(
        source=hub.repo if hub else model.spec.source.path or "",
        revision=status.revision,
        license=status.license,
        architecture=status.architecture,
        parameters=status.parameters,
        context_length=status.context_length,
    )


def build_method(job: QuantJob, baseline: Measured | None) -> specs.Method:
    """How loss and speed were measured."""
    if baseline is None:
        return specs.Method()
    loss, speed, bench = baseline.loss, baseline.speed, job.spec.benchmark
    return specs.Method(
        text=loss.text,
        context_size=job.spec.evaluation.context_size,
        chunks=loss.chunks,
        prompt_tokens=bench.prompt_tokens if speed else 0,
        generate_tokens=bench.generate_tokens if speed else 0,
        repetitions=bench.repetitions if speed else 0,
        threads=speed.threads if speed else 0,
    )


def build_manifests(job: QuantJob, model: SLMModel) -> list[dict[str, Any]]:
    """The two manifests that measure the same again: the model is pinned to the commit that was measured."""
    source = model.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"suspend"})
    if "huggingFace" in source["source"]:
        source["source"]["huggingFace"]["revision"] = model.status.revision
    work = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"suspend", "backoff_limit"})
    return [
        {"apiVersion": API_VERSION, "kind": "SLMModel", "metadata": {"name": model.metadata.name}, "spec": source},
        {"apiVersion": API_VERSION, "kind": "QuantJob", "metadata": {"name": job.metadata.name}, "spec": work},
    ]


def build_gate(job: QuantJob) -> specs.GateBounds:
    """The bounds that variants were judged by."""
    gate = job.spec.gate
    return specs.GateBounds(
        max_kl_divergence=gate.max_kl_divergence,
        max_perplexity_increase=gate.max_perplexity_increase,
        min_top_one_agreement=gate.min_top_one_agreement,
    )
