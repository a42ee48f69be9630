"""A bursty day through the autoscaler and through what HPA and KEDA do: engines paid for, and time requests waited.

Then a real service is woken from zero on this machine, and the time until its first token split into its parts.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.bench.harness import ROOT, Figures, Goal, Report
from tests.bench.scalers import HpaLike, KedaHttpLike, KedaLike, Ours
from tests.bench.serving_day import HOURS, Request, draw_day, read_trace
from tests.bench.serving_simulation import (
    HOLD_SECONDS,
    MAX_REPLICAS,
    QUEUE_LENGTH,
    SLOTS,
    START_SECONDS,
    Outcome,
    Scaler,
    Simulation,
)
from tests.bench.waking import PARTS, measure_waking
from tests.support.models import SMOLLM2_135M

SUBJECTS: Mapping[str, Callable[[], Scaler]] = {
    "slm autoscaler": Ours,
    "KEDA-like": KedaLike,
    "KEDA-HTTP-like": KedaHttpLike,
    "HPA-like": HpaLike,
}
OURS = "slm autoscaler"
NAMES = {"KEDA-like": "Keda", "KEDA-HTTP-like": "KedaHttp", "HPA-like": "Hpa"}
SEEDS = (21, 22, 23, 24, 25)
"""Days that are drawn. Defaults were chosen on others (1 to 5), and ratios are medians over days, so that no lucky one
counts."""
GOALS = {
    # Who pays wants no more engines, and who waits wants to wait less, most of all in the bad cases.
    "replicaSecondsToKeda": Goal("max", 1.0),
    "replicaSecondsToHpa": Goal("max", 1.0),
    "queueSecondsMeanToKeda": Goal("max", 1.0),
    "queueSecondsP95ToKeda": Goal("max", 1.0),
    "queueSecondsP99ToKeda": Goal("max", 0.9),
    "queueSecondsP99ToKedaHttp": Goal("max", 1.0),
    "rejectedMoreThanKeda": Goal("max", 0.0),
}
WAKES = 9
WAKING_GOALS = {"slowestDecideMs": Goal("max", 200.0)}
"""From the first request to the Deployment that asks for an engine."""
TRACE = "SLM_BENCH_TRACE"
"""Names a recorded trace to take instead, in Azure's or BurstGPT's form."""


PICTURE = ROOT / "build" / "bench" / "autoscale.png"


def run(folder: Path) -> Report:
    """The days, and the wake-ups."""
    report = simulate(SEEDS, HOURS, PICTURE)
    waking = measure_waking(folder, WAKES, SMOLLM2_135M)
    report.figures["woken from zero, on this machine"] = waking
    report.ratios["slowestDecideMs"] = waking["slowestDecideMs"]
    report.goals = GOALS | WAKING_GOALS
    report.notes += [f"{name}: {what}" for name, what in PARTS.items()]
    return report


def simulate(seeds: Sequence[int], hours: tuple[float, ...], picture: Path) -> Report:
    """The drawn days, or the trace that SLM_BENCH_TRACE names; the picture lies beside the report."""
    trace = os.environ.get(TRACE, "")
    days = [read_trace(Path(trace))] if trace else [draw_day(seed, hours) for seed in seeds]
    outcomes = {name: [Simulation(day, subject()).run() for day in days] for name, subject in SUBJECTS.items()}
    figures = {name: [summarize(outcome) for outcome in each] for name, each in outcomes.items()}
    ratios = _compare_all(figures)
    source = f"trace {Path(trace).name}" if trace else f"{len(days)} drawn days"
    report = Report(
        "autoscale",
        f"{source}, {sum(len(day) for day in days)} requests; engines start in {START_SECONDS:g} s, {SLOTS} slots,"
        f" at most {MAX_REPLICAS}; the gateway holds {QUEUE_LENGTH} for {HOLD_SECONDS:g} s",
        {name: _median(each) for name, each in figures.items()},
        _median(ratios),
        GOALS,
        [_describe_spread(metric, [day[metric] for day in ratios]) for metric in GOALS],
    )
    draw_comparison(picture, days[0], {name: each[0] for name, each in outcomes.items()})
    return report


def _describe_spread(metric: str, values: Sequence[float]) -> str:
    return f"{metric} by day: {', '.join(f'{value:.3g}' for value in values)}"


def summarize(outcome: Outcome) -> Figures:
    """The figures of one day."""
    cuts = statistics.quantiles(outcome.queue_seconds, n=100, method="inclusive")
    return {
        "replicaSeconds": round(outcome.replica_seconds, 1),
        "queueSecondsP50": round(cuts[49], 3),
        "queueSecondsP95": round(cuts[94], 3),
        "queueSecondsP99": round(cuts[98], 3),
        "queueSecondsMean": round(statistics.fmean(outcome.queue_seconds), 3),
        "answered": len(outcome.queue_seconds),
        "rejected": outcome.rejected,
        "engineStarts": outcome.starts,
        "wakesFromZero": outcome.from_zero,
    }


def _median(days: Sequence[Figures]) -> Figures:
    return {metric: round(statistics.median(day[metric] for day in days), 3) for metric in days[0]}


def compare(ours: Figures, other: Figures, name: str) -> Figures:
    """The figures of one day as shares of another subject's on the same day; both nothing is the same."""
    metrics = {
        "replicaSeconds": "replicaSecondsTo",
        "queueSecondsMean": "queueSecondsMeanTo",
        "queueSecondsP95": "queueSecondsP95To",
        "queueSecondsP99": "queueSecondsP99To",
    }
    shares = {to + name: ours[metric] / other[metric] if other[metric] else 1.0 for metric, to in metrics.items()}
    return {**shares, f"rejectedMoreThan{name}": ours["rejected"] - other["rejected"]}


def _compare_all(days: Mapping[str, Sequence[Figures]]) -> list[Figures]:
    """One set of ratios a day."""
    ratios: list[Figures] = [{} for _ in days[OURS]]
    for name, short in NAMES.items():
        for at, (ours, other) in enumerate(zip(days[OURS], days[name], strict=True)):
            ratios[at] |= compare(ours, other, short)
    return ratios


def draw_comparison(path: Path, day: Sequence[Request], outcomes: Mapping[str, Outcome]) -> Path:
    """Requests by minute, engines wanted over the day, and the share of requests that waited longer than t."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    demand, engines, waits = figure.subplots(3, 1)
    minutes = int(max(request.at_seconds for request in day) // 60) + 1
    demand.hist([request.at_seconds / 3600 for request in day], bins=minutes, color="grey")
    demand.set(title="requests by minute", xlabel="hour")
    for name, outcome in outcomes.items():
        times = [at / 3600 for at, _, _ in outcome.series]
        engines.step(times, [wanted for _, wanted, _ in outcome.series], where="post", label=name, alpha=0.7)
        ordered = sorted(outcome.queue_seconds, reverse=True)
        waits.plot(ordered, [(number + 1) / len(ordered) for number in range(len(ordered))], label=name)
    engines.set(title="engines wanted", xlabel="hour")
    waits.set(title="share of requests that waited longer", xlabel="seconds", yscale="log", xlim=(0, None))
    for axes in (engines, waits):
        axes.legend()
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
