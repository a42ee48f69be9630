"""Whether a canary goes on, waits, is taken or is given up: a pure function of what gateways counted.

As in Argo Rollouts and Flagger, the traffic is stepped and each step is judged by the requests that it got itself. What
differs comes from answers whose times spread widely: a higher latency counts once it cannot well be chance (Student's
standard error of the difference of two means, of logarithms here, whose spread is that of the requests and so common to
both), and a step that is neither good nor surely bad waits for more answers.
"""

import math
from dataclasses import dataclass
from typing import Literal

from slm_operator.api.inferenceservice import Canary
from slm_operator.core.answers import Answers, Tally, Times

CERTAIN = 3.0
"""Standard errors beyond which a difference is no chance, one in a thousand: a step is looked at many times."""

CHANCE = 0.001
"""Probability below which so many errors are no chance."""
ROUNDING = 1e-9
"""What a share that is exactly on its bound may be beyond it."""

Action = Literal["wait", "advance", "promote", "roll back"]


@dataclass(frozen=True)
class Judgement:
    """What to do, and the figures that say so, as a sentence."""

    action: Action
    why: str
    percent: int = 0
    """Of the next step, where it advances."""


def judge(bounds: Canary, percent: int, elapsed_seconds: float, answers: Answers) -> Judgement:
    """The verdict on a step of ``percent`` that began so long ago."""
    figures = describe(answers)
    failing = _compare_errors(bounds, answers)
    if failing is not None and failing.certain:
        return Judgement("roll back", f"{failing.text}: {figures}")
    if min(answers.stable.requests, answers.canary.requests) < bounds.min_requests:
        return Judgement("wait", f"{bounds.min_requests} answers of each are needed: {figures}")
    slower = [found for each in _times(answers) if (found := _compare(bounds, *each))]
    worse = [*([failing] if failing else []), *slower]
    for each in slower:
        if each.certain:
            return Judgement("roll back", f"{each.text}: {figures}")
    if elapsed_seconds < bounds.step_seconds:
        return Judgement("wait", f"it lasts {bounds.step_seconds} s at least: {figures}")
    if worse:
        doubt = "which may be chance and more answers will show"
        return Judgement("wait", f"{worse[0].text}, {doubt}: {figures}")
    coming = next((each for each in bounds.steps if each > percent), 0)
    return Judgement("advance" if coming else "promote", figures, coming)


@dataclass(frozen=True)
class _Worse:
    """One figure that is beyond its bound."""

    text: str
    certain: bool
    """Whether that is no chance."""


def _compare_errors(bounds: Canary, answers: Answers) -> _Worse | None:
    """Whether more requests fail than may: at once where that is no chance, however few there are."""
    canary, stable = answers.canary, answers.stable
    most = stable.error_rate + bounds.max_error_rate
    if canary.error_rate <= most + ROUNDING:
        return None
    # Of few requests the rate is not known to the percent: none of none failed tells nothing.
    likely = (stable.errors + 1) / (stable.requests + 2) + bounds.max_error_rate
    text = f"more than {most:.1%} of its requests failed, and maxErrorRate is {bounds.max_error_rate:g}"
    return _Worse(text, certain=_chance(canary.errors, canary.requests, likely) < CHANCE)


def _chance(errors: int, requests: int, rate: float) -> float:
    """Probability of so many errors, or more, where each request fails at that rate (the binomial distribution)."""
    if errors <= requests * rate:
        return 1.0
    total = 0.0
    for number in range(errors, requests + 1):
        ways = math.lgamma(requests + 1) - math.lgamma(number + 1) - math.lgamma(requests - number + 1)
        successes = (requests - number) * math.log1p(-rate)
        term = math.exp(ways + number * math.log(rate) + successes)
        total += term
        if term < total * ROUNDING:
            break
    return total


def _times(answers: Answers) -> tuple[tuple[str, Times, Times], ...]:
    stable, canary = answers.stable, answers.canary
    return (
        ("the first token takes", stable.first_token, canary.first_token),
        ("each token takes", stable.per_token, canary.per_token),
        ("an answer that is not streamed takes", stable.unstreamed, canary.unstreamed),
    )


def _compare(bounds: Canary, name: str, stable: Times, canary: Times) -> _Worse | None:
    if min(stable.count, canary.count) < bounds.min_requests / 2:
        return None  # Of a step's requests some are streamed and some are not: one of the two is at least a half.
    increase = canary.log_mean - stable.log_mean
    excess = increase - math.log1p(bounds.max_latency_increase)
    if excess <= ROUNDING:
        return None
    text = f"{name} {math.expm1(increase):.0%} longer, and maxLatencyIncrease is {bounds.max_latency_increase:g}"
    return _Worse(text, certain=excess > CERTAIN * _find_error(stable, canary))


def _find_error(one: Times, other: Times) -> float:
    """Standard error of the difference of both means of logarithms; infinite where nothing shows how they spread."""
    freedom = one.count + other.count - 2
    if freedom < 1:
        return math.inf
    spread = (one.log_deviations + other.log_deviations) / freedom
    return math.sqrt(spread * (1 / one.count + 1 / other.count))


def describe(answers: Answers) -> str:
    """The figures of both tracks, as a sentence."""
    return f"the canary {_describe(answers.canary)}; the other engines {_describe(answers.stable)}."


def _describe(tally: Tally) -> str:
    parts = [f"failed {tally.errors} of {tally.requests} requests"]
    if tally.first_token.count:
        parts.append(f"{tally.first_token.mean_seconds * 1000:.0f} ms to the first token")
    if tally.per_token.count:
        parts.append(f"{tally.per_token.mean_seconds * 1000:.1f} ms for each")
    if tally.unstreamed.count:
        parts.append(f"{tally.unstreamed.mean_seconds * 1000:.1f} ms for each where nothing is streamed")
    return ", ".join(parts)
