"""A picture of how figures grow with the number of objects."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from tests.bench.harness import Figures

PANELS = {
    "wallSeconds": "until all are Ready, s",
    "apiCallsPerObject": "API calls per object",
    "cpuMsPerObject": "CPU per object, ms",
    "peakMemoryMiB": "peak memory, MiB",
}


def draw_growth(path: Path, growth: Mapping[str, Mapping[int, Figures]]) -> Path:
    """One panel per metric, one line per subject; ``growth`` is subject to number of objects to figures."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for subject, sizes in growth.items():
            axes.plot(list(sizes), [sizes[size][metric] for size in sizes], marker="o", label=subject)
        axes.set(title=title, xlabel="InferenceServices")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
