"""The gate and the choice among what passes it: pure comparisons of measured figures."""

from collections.abc import Callable, Sequence

from slm_contract.reasons import Reason
from slm_operator.api.quantjob import Gate, Goal, VariantStatus
from slm_operator.core.quantity import format_bytes, parse_quantity

Check = Callable[[VariantStatus, VariantStatus, Gate], str | None]
"""(variant, baseline, gate) → the violation in words, or None."""


def check_kl_divergence(variant: VariantStatus, _baseline: VariantStatus, gate: Gate) -> str | None:
    """KL divergence within its bound."""
    bound, value = gate.max_kl_divergence, variant.kl_divergence
    if bound is None or (value is not None and value <= bound):
        return None
    return f"KL divergence {_figure(value)} is above {bound:g}"


def check_perplexity(variant: VariantStatus, baseline: VariantStatus, gate: Gate) -> str | None:
    """Relative growth of perplexity within its bound."""
    bound = gate.max_perplexity_increase
    if bound is None:
        return None
    if variant.perplexity is None or not baseline.perplexity:
        return "perplexity was not measured"
    growth = variant.perplexity / baseline.perplexity - 1
    return None if growth <= bound else f"perplexity grew by {growth:.2%}, more than {bound:.2%}"


def check_top_one(variant: VariantStatus, _baseline: VariantStatus, gate: Gate) -> str | None:
    """Top-one agreement within its bound."""
    bound, value = gate.min_top_one_agreement, variant.top_one_agreement
    if bound is None or (value is not None and value >= bound):
        return None
    return f"top-one agreement {_figure(value)} is below {bound:g}"


CHECKS: tuple[Check, ...] = (check_kl_divergence, check_perplexity, check_top_one)
"""The gate is this chain, in this order."""


def _figure(value: float | None) -> str:
    return "(not measured)" if value is None else f"{value:.6g}"


def judge_variant(variant: VariantStatus, baseline: VariantStatus, gate: Gate) -> VariantStatus:
    """The variant with its verdict."""
    violations = [found for check in CHECKS if (found := check(variant, baseline, gate)) is not None]
    if violations:
        update = {"gate": "Failed", "reason": Reason.GATE_FAILED.value, "message": "; ".join(violations)}
    else:
        update = {"gate": "Passed", "reason": Reason.GATE_PASSED.value, "message": "meets every bound of the gate"}
    return variant.model_copy(update=update)


def select_variant(variants: Sequence[VariantStatus], goal: Goal | None, serving: dict[str, int]) -> tuple[str, str]:
    """(type, why) of the best variant that passed; ('', why not) when none will do.

    ``serving`` holds the bytes needed to serve each type; a type that is missing counts with its file size.
    """
    wanted = goal or Goal()
    passed = [variant for variant in variants if variant.gate == "Passed"]
    if not passed:
        return "", "No variant passed the gate: " + "; ".join(f"{v.type}: {v.message}" for v in variants)
    missed = {v.type: found for v in passed if (found := _misses_goal(v, wanted, serving)) is not None}
    fitting = [variant for variant in passed if variant.type not in missed]
    if not fitting:
        return "", "No variant reaches the goal: " + "; ".join(f"{name}: {why}" for name, why in missed.items())
    best = min(fitting, key=_preference(wanted))
    return best.type, f"{best.type} is the {wanted.prefer} of {_names(fitting)}, which {_who(goal)}."


def _names(variants: Sequence[VariantStatus]) -> str:
    return ", ".join(variant.type for variant in variants)


def _who(goal: Goal | None) -> str:
    return "passed the gate and reach the goal" if goal else "passed the gate"


def _misses_goal(variant: VariantStatus, goal: Goal, serving: dict[str, int]) -> str | None:
    need = serving.get(variant.type, variant.size_bytes)
    if goal.max_memory is not None and need > parse_quantity(goal.max_memory):
        return f"needs {format_bytes(need)}, more than {goal.max_memory}"
    if goal.min_top_one_agreement is not None and (variant.top_one_agreement or 0.0) < goal.min_top_one_agreement:
        return f"top-one agreement {_figure(variant.top_one_agreement)} is below {goal.min_top_one_agreement:g}"
    if goal.min_tokens_per_second is not None and (variant.tokens_per_second or 0.0) < goal.min_tokens_per_second:
        return f"{_figure(variant.tokens_per_second)} tokens per second are fewer than {goal.min_tokens_per_second:g}"
    return None


def _preference(goal: Goal) -> Callable[[VariantStatus], tuple[float, float, str]]:
    def order(variant: VariantStatus) -> tuple[float, float, str]:
        loss = variant.kl_divergence if variant.kl_divergence is not None else float("inf")
        first = {
            "smallest": float(variant.size_bytes),
            "fastest": -(variant.tokens_per_second or 0.0),
            "closest": loss,
        }[goal.prefer]
        return first, loss, variant.type

    return order
