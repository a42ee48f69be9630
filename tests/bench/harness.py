"""Timing of whole processes and of calls, and the JSON that a benchmark leaves behind.

Machines are noisy: subjects take turns within one run, medians are reported, and ratios are what counts.
"""

import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[str, float]


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio."""

    kind: Literal["min", "max"]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether the value keeps the bound."""
        return value >= self.bound if self.kind == "min" else value <= self.bound


@dataclass
class Report:
    """What a benchmark found."""

    name: str
    work: str
    """What every subject did."""
    figures: dict[str, Figures] = field(default_factory=dict)
    """Subject to metric to value; metric names carry their unit."""
    ratios: Figures = field(default_factory=dict)
    goals: dict[str, Goal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def met(self) -> bool:
        """Whether every goal is met."""
        return all(goal.is_met(self.ratios[name]) for name, goal in self.goals.items())

    def as_json(self) -> dict[str, Any]:
        """The document."""
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        return {
            "name": self.name,
            "commit": commit.stdout.strip(),
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
            "work": self.work,
            "figures": self.figures,
            "ratios": self.ratios,
            "goals": {name: {goal.kind: goal.bound} for name, goal in self.goals.items()},
            "met": self.met,
            "notes": self.notes,
        }

    def write(self, folder: Path) -> Path:
        """Write ``NAME.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        return path


def run_process(command: list[str], env: Mapping[str, str] | None = None) -> Figures:
    """Wall time, CPU time and peak memory of a whole process; raises RuntimeError when it fails."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ) | dict(env or {}), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]} exited with {process.returncode}")
    return {"wallSeconds": time.monotonic() - began, "cpuSeconds": usage.ru_utime + usage.ru_stime, **_peak(usage)}


def _peak(usage: resource.struct_rusage) -> Figures:
    return {"peakMemoryMiB": usage.ru_maxrss / 1024}


def take_turns(subjects: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, Figures]:
    """Median of every figure over ``rounds``, each subject once per round."""
    seen: dict[str, list[Figures]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            seen[name].append(subject())
    return {
        name: {metric: round(median(run[metric] for run in runs), 4) for metric in runs[0]}
        for name, runs in seen.items()
    }
