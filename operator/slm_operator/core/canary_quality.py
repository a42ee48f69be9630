"""Whether a variant's recorded quality lets it be tried in place of the one that is served."""

from slm_operator.api.inferenceservice import Canary
from slm_operator.api.quantjob import QuantJob
from slm_operator.core.canary import ROUNDING
from slm_operator.core.manifests.deployment import Weights


def check_quality(bounds: Canary, quant_job: QuantJob | None, served: Weights, wanted: Weights) -> str:
    """Why ``wanted`` must not be tried, as a sentence; empty when it may.

    A bound that cannot be checked is one that is not kept: a figure of another QuantJob says nothing of this model.
    """
    bound = bounds.max_top_one_loss
    if bound is None or served.blob == wanted.blob:
        return ""
    before, after = (_find_agreement(quant_job, each.blob) for each in (served, wanted))
    if before is None or after is None:
        missing = served if before is None else wanted
        return (
            f"The top-one agreement of {missing.variant or 'what is served'} is not recorded in the QuantJob, so that"
            " maxTopOneLoss cannot be checked: take the bound out of spec.rollout.canary to try it without."
        )
    if before - after <= bound + ROUNDING:
        return ""
    return (
        f"{wanted.variant} agrees with its original on {after:.2%} of the tokens, {served.variant} on {before:.2%}:"
        f" it loses {before - after:.4f}, and maxTopOneLoss is {bound:g}."
    )


def _find_agreement(quant_job: QuantJob | None, blob: str) -> float | None:
    """Share of tokens on which the file and its original agree; the original itself has no figure."""
    if quant_job is None:
        return None
    baseline = quant_job.status.baseline
    if baseline is not None and baseline.blob == blob:
        return 1.0
    return next((each.top_one_agreement for each in quant_job.status.variants if each.blob == blob), None)
