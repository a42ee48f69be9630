"""Why no node takes an engine: what the scheduler leaves open, which is by how much, and what would help."""

from collections.abc import Sequence
from dataclasses import replace

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import AcceleratorStatus, InferenceServiceSpec
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.accelerators import Published
from slm_operator.core.choosing import find_offered
from slm_operator.core.conditions import Verdict
from slm_operator.core.fit import Variant, check_fit
from slm_operator.core.fit_demand import Demand
from slm_operator.core.plan import Manifest
from slm_operator.core.quantity import parse_quantity


def judge_unscheduled(
    verdict: Verdict,
    demand: Demand,
    variants: Sequence[Variant],
    spec: InferenceServiceSpec,
    published: Published,
    accelerator: AcceleratorStatus,
) -> Verdict:
    """``verdict`` with where the engine fits; that all nodes are too small is a reason of its own."""
    tolerations = [each.model_dump() for each in spec.tolerations]
    sort = "gpu" if accelerator.count else "none"
    fit = check_fit(demand, find_offered(published, spec), variants, tolerations, accelerator=sort)
    if fit.fits:
        what = "The model" if accelerator.count else f"Its memory, {demand.describe()},"
        return replace(verdict, message=f"{verdict.message} {what} fits on {fit.fits[0]}.")
    reason = Reason.DOES_NOT_FIT if fit.misses else verdict.reason
    return replace(verdict, reason=reason, message=f"{verdict.message} {fit.message}")


def asked_memory(spec: InferenceServiceSpec, deployment: Manifest) -> int:
    """Memory that spec.resources asks for, bytes; 0 where it leaves that to the forecast."""
    given = spec.resources
    if "memory" not in {**given.requests, **given.limits}:
        return 0
    (engine,) = deployment["spec"]["template"]["spec"]["containers"]
    return int(parse_quantity(engine["resources"]["requests"]["memory"]))


def find_variants(model: SLMModel | None, job: QuantJob | None) -> list[Variant]:
    """What could be served instead: variants that passed the gate, and those whose size is forecast."""
    made = {each.type: each for each in job.status.variants if each.blob} if job else {}
    passed = [Variant(each.type, each.size_bytes, exists=True) for each in made.values() if each.gate == "Passed"]
    forecast = model.status.forecast if model else []
    return [*passed, *(Variant(each.type, each.size_bytes, exists=False) for each in forecast if each.type not in made)]
