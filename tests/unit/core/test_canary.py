"""Whether a step of a canary goes on, waits, is taken or is given up, from what was counted."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.api.inferenceservice import Canary
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import parse_resource
from slm_operator.core.answers import Answers, Tally, Times
from slm_operator.core.canary import judge
from slm_operator.core.canary_quality import check_quality
from slm_operator.core.manifests.deployment import Weights
from tests.support.planning import QUANT

BOUNDS = Canary(steps=[5, 25, 50], step_seconds=60, min_requests=20)


def times(seconds: float, count: int, spread: float = 1.5) -> Times:
    """Durations around a geometric mean, half of them longer by a factor of ``spread``, half shorter."""
    middle, distance = math.log(seconds), math.log(spread)
    return Times(count, count * middle, count * (middle**2 + distance**2))


def tally(requests: int, errors: int = 0, *, first: float = 0.2, each: float = 0.02) -> Tally:
    return Tally(requests, errors, times(first, requests - errors), times(each, requests - errors))


STABLE = tally(400)
WHOLE = Tally(400, 0, unstreamed=times(0.04, 400))


@pytest.mark.parametrize(
    ("percent", "elapsed", "stable", "canary", "action", "why"),
    [
        (5, 60, STABLE, tally(20), "advance", "the canary failed 0 of 20 requests, 200 ms to the first token"),
        (50, 60, STABLE, tally(200), "promote", "20.0 ms for each; the other engines failed 0 of 400 requests"),
        (5, 59, STABLE, tally(20), "wait", "it lasts 60 s at least"),
        (5, 600, STABLE, tally(19), "wait", "20 answers of each are needed"),
        (50, 600, tally(19), tally(300), "wait", "20 answers of each are needed"),
        (5, 0, STABLE, Tally(), "wait", "20 answers of each are needed"),
        (5, 0, STABLE, tally(2, 2), "roll back", "more than 1.0% of its requests failed, and maxErrorRate is 0.01"),
        (5, 0, STABLE, tally(1, 1), "wait", "20 answers of each are needed"),
        (
            5,
            60,
            STABLE,
            tally(20, 1),
            "wait",
            "more than 1.0% of its requests failed, and maxErrorRate is 0.01, which may",
        ),
        (5, 0, Tally(), tally(9, 9), "wait", "20 answers of each are needed"),
        (5, 0, Tally(), tally(12, 12), "roll back", "more than 1.0% of its requests failed"),
        (5, 60, STABLE, tally(100, 1), "advance", "failed 1 of 100 requests"),
        (5, 60, STABLE, tally(100, 2), "wait", "the canary failed 2 of 100 requests"),
        (5, 60, STABLE, tally(100, 7), "roll back", "the canary failed 7 of 100 requests"),
        (5, 60, tally(400, 40), tally(100, 11), "advance", "the other engines failed 40 of 400 requests"),
        (5, 60, tally(400, 40), tally(100, 12), "wait", "more than 11.0% of its requests failed"),
        (5, 60, tally(400, 40), tally(100, 23), "roll back", "more than 11.0% of its requests failed"),
        (5, 60, STABLE, tally(20, each=0.024), "advance", "24.0 ms for each"),
        (5, 60, STABLE, tally(20, each=0.01, first=0.1), "advance", "100 ms to the first token"),
        (
            5,
            0,
            STABLE,
            tally(20, each=0.05),
            "roll back",
            "each token takes 150% longer, and maxLatencyIncrease is 0.25",
        ),
        (5, 0, STABLE, tally(20, first=0.5), "roll back", "the first token takes 150% longer"),
        (
            5,
            0,
            WHOLE,
            Tally(20, 0, unstreamed=times(0.1, 20)),
            "roll back",
            "an answer that is not streamed takes 150% longer",
        ),
        (
            5,
            60,
            WHOLE,
            tally(20),
            "advance",
            "the other engines failed 0 of 400 requests, 40.0 ms for each where nothing",
        ),
        (5, 60, STABLE, tally(20, each=0.026), "wait", "each token takes 30% longer, and maxLatencyIncrease is 0.25, "),
        (5, 60, tally(40000), tally(4000, each=0.026), "roll back", "each token takes 30% longer"),
        (5, 60, Tally(400), Tally(20), "advance", "the canary failed 0 of 20 requests; the other engines failed 0 of"),
    ],
)
def test_a_step_is_judged(percent: int, elapsed: float, stable: Tally, canary: Tally, action: str, why: str) -> None:
    judgement = judge(BOUNDS, percent, elapsed, Answers("step", stable, canary))
    assert (judgement.action, why in judgement.why) == (action, True), judgement


def test_chance_alone_ends_no_canary_that_fails_as_often_as_the_others() -> None:
    chance, ended = random.Random(1), 0  # noqa: S311 - a test's dice
    for _ in range(200):
        stable, canary = Tally(), Tally()
        for _ in range(60):  # A look after each twenty requests, of which one is the canary's.
            stable += Tally(19, sum(chance.random() < 0.005 for _ in range(19)))
            canary += Tally(1, int(chance.random() < 0.005))
            ended += judge(BOUNDS, 5, 0, Answers("step", stable, canary)).action == "roll back"
    assert ended <= 2


def test_the_next_step_follows_the_percentage_and_not_a_number_so_that_steps_may_change_meanwhile() -> None:
    answers = Answers("step", STABLE, tally(20))
    assert [judge(BOUNDS, percent, 60, answers).percent for percent in (1, 5, 20, 25, 49, 50, 80)] == [
        *(5, 25, 25, 50, 50, 0, 0)
    ]


def test_times_add_up_and_tell_their_geometric_mean() -> None:
    together = Times.of(0.1) + Times.of(10.0)
    assert together.mean_seconds == pytest.approx(1.0)
    assert together.log_deviations == pytest.approx(2 * math.log(10) ** 2)
    assert Times.of(0.0) == Times.of(1e-5) == Times.of(1e-3), "tokens that arrive in one piece outweigh no others"


def test_a_latency_of_few_answers_neither_ends_a_step_nor_holds_it_up() -> None:
    few = Tally(20, 0, times(0.2, 20), times(0.02, 20), unstreamed=times(9.0, 9, spread=1.0))
    stable = replace(STABLE, unstreamed=times(0.04, 100))
    assert judge(BOUNDS, 5, 60, Answers("step", stable, few)).action == "advance"
    enough = replace(few, unstreamed=times(9.0, 10, spread=1.0))
    assert judge(BOUNDS, 5, 60, Answers("step", stable, enough)).action == "roll back"


def test_a_single_answer_of_each_is_no_measure_of_chance() -> None:
    one = Answers("step", tally(1), tally(1, each=9.0))
    judgement = judge(Canary(min_requests=1, step_seconds=0), 5, 60, one)
    assert (judgement.action, "may be chance" in judgement.why) == ("wait", True)


tallies = st.builds(
    lambda requests, errors, first, each: tally(requests, min(errors, requests), first=first, each=each),
    st.integers(0, 300),
    st.integers(0, 30),
    st.floats(0.001, 10),
    st.floats(0.001, 1),
)


@given(st.integers(1, 99), st.floats(0, 1000), tallies, tallies)
def test_nothing_goes_on_that_is_beyond_a_bound_or_not_known(
    percent: int, elapsed: float, stable: Tally, canary: Tally
) -> None:
    judgement = judge(BOUNDS, percent, elapsed, Answers("step", stable, canary))
    if judgement.action not in ("advance", "promote"):
        return
    assert min(stable.requests, canary.requests) >= BOUNDS.min_requests
    assert canary.error_rate <= stable.error_rate + BOUNDS.max_error_rate + 1e-6
    for before, after in ((stable.first_token, canary.first_token), (stable.per_token, canary.per_token)):
        if min(before.count, after.count) >= BOUNDS.min_requests / 2:
            assert after.mean_seconds <= before.mean_seconds * (1 + BOUNDS.max_latency_increase) * (1 + 1e-6)
    assert judgement.percent > percent or judgement.action == "promote"


@given(st.floats(0.02, 5), st.floats(0, 0.05))
def test_with_enough_answers_every_canary_is_taken_or_given_up(slower: float, errors: float) -> None:
    many, percent = 100_000, 0
    canary = tally(many, round(many * errors), each=0.02 * slower)
    for _ in range(len(BOUNDS.steps) + 1):
        judgement = judge(BOUNDS, percent, 60, Answers("step", tally(many), canary))
        if judgement.action in ("promote", "roll back"):
            return
        assert judgement.action == "advance" or abs(slower - 1.25) < 0.02, judgement
        percent = judgement.percent


def lognormal(rng: random.Random, median: float, spread: float) -> Times:
    return Times.of(median * math.exp(rng.gauss(0, spread)))


def run_trial(rng: random.Random, slower: float) -> str:
    """How a trial ends whose times spread as those of all prompts do, looked at after each fifty requests."""
    percent, action = BOUNDS.steps[0], "advance"
    while action == "advance":
        answers, looks, action = Answers("step"), 0, "wait"
        while action == "wait":
            for _ in range(50):
                tried = rng.random() * 100 < percent
                factor = slower if tried else 1.0
                one = Tally(1, 0, lognormal(rng, 0.2 * factor, 1.2), lognormal(rng, 0.02 * factor, 0.2))
                answers += Answers("step", Tally(), one) if tried else Answers("step", one)
            looks += 1
            judgement = judge(BOUNDS, percent, 5 * looks, answers)
            action, coming = judgement.action, judgement.percent
        percent = coming
    return action


@pytest.mark.parametrize(
    ("slower", "ending"), [(1.0, "promote"), (1.1, "promote"), (1.5, "roll back"), (2.0, "roll back")]
)
def test_chance_neither_gives_up_a_good_engine_nor_takes_a_slow_one(slower: float, ending: str) -> None:
    seeded = (random.Random(seed) for seed in range(12))  # noqa: S311 (nothing secret)
    assert {run_trial(each, slower) for each in seeded} == {ending}


def quant_job(**agreements: float | None) -> QuantJob:
    variants = [{"type": name, "blob": f"b{name}", "topOneAgreement": each} for name, each in agreements.items()]
    status: dict[str, Any] = {"variants": variants, "baseline": {"type": "baseline", "blob": "bbase"}}
    made = parse_resource({**QUANT, "status": status})
    assert isinstance(made, QuantJob)
    return made


JOB = quant_job(Q8_0=0.99, Q4_0=0.95, Q2_K=None)
UNKNOWN = "is not recorded in the QuantJob, so that maxTopOneLoss cannot be checked: take the bound out of "


@pytest.mark.parametrize(
    ("bound", "served", "wanted", "problem"),
    [
        (None, "Q8_0", "Q4_0", ""),
        (0.05, "Q8_0", "Q4_0", ""),
        (0.04, "Q8_0", "Q4_0", ""),
        (0.0, "Q4_0", "Q8_0", ""),
        (0.0, "Q4_0", "Q4_0", ""),
        (0.0, "other", "other", ""),
        (0.05, "base", "Q4_0", ""),
        (
            0.04,
            "base",
            "Q4_0",
            "Q4_0 agrees with its original on 95.00% of the tokens, base on 100.00%: it loses 0.0500",
        ),
        (0.03, "Q8_0", "Q4_0", "it loses 0.0400, and maxTopOneLoss is 0.03."),
        (0.03, "Q8_0", "Q2_K", f"The top-one agreement of Q2_K {UNKNOWN}"),
        (0.03, "other", "Q8_0", f"The top-one agreement of other {UNKNOWN}"),
    ],
)
def test_a_variant_is_not_tried_whose_recorded_quality_misses_the_bound(
    bound: float | None, served: str, wanted: str, problem: str
) -> None:
    found = check_quality(
        Canary(max_top_one_loss=bound), JOB, Weights(served, f"b{served}"), Weights(wanted, f"b{wanted}")
    )
    assert bool(found) == bool(problem)
    assert problem in found


def test_without_a_quantjob_a_bound_on_quality_cannot_be_kept() -> None:
    found = check_quality(Canary(max_top_one_loss=0.5), None, Weights("Q8_0", "a"), Weights("Q4_0", "b"))
    assert f"of Q8_0 {UNKNOWN}" in found
