"""Threads under a CPU limit: llama.cpp with as many as we start it with, beside its own default.

llama.cpp counts the machine's cores, whatever a container's quota is; its threads spin while they wait for those that
the quota holds up. A container of a pod sees all cores of its node, so that the default is measured with the numbers of
larger machines too.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from slm_contract.specs import ConvertSpec, QuantizeSpec
from slm_operator.core.quantity import plan_threads
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import convert, quantize
from slm_pipelines.store import Store
from tests.bench.harness import ROOT, Figures, Goal, Report, take_turns
from tests.bench.limited import cpu_limit
from tests.support.models import SMOLLM2_135M, write_model
from tests.support.stored import store_folder

LIMITS = (0.5, 1.0, 1.5, 2.0)
DEFAULTS = (8, 32)
"""Cores of nodes: what the engine's default is there, besides this machine's."""
ROUNDS = 3
GOAL = 1.0


def run(folder: Path) -> Report:
    """Tokens per second of prompts and answers for each limit."""
    model = _make_model(folder)
    report = Report("threads", "a model of SmolLM2-135M's shape as Q8_0: 64 tokens of prompt, 16 of answer")
    for cores in LIMITS:
        ours = plan_threads(str(cores), 0)
        subjects: dict[str, Callable[[], Figures]] = {f"ours, {ours} threads": partial(_measure, model, cores, ours)}
        subjects["this machine's default"] = partial(_measure, model, cores, None)
        subjects |= {f"default of {cpus} cores": partial(_measure, model, cores, cpus) for cpus in DEFAULTS}
        found = take_turns(subjects, ROUNDS)
        report.figures |= {f"{cores:g} cores: {name}": figures for name, figures in found.items()}
        best, *others = (figures["generatedTokensPerSecond"] for figures in found.values())
        for name, other in zip([*found][1:], others, strict=True):
            report.ratios[f"{cores:g} cores, ours over {name}"] = round(best / other, 2)
    # Where the limit is the whole machine, ours is its default.
    report.goals = {name: Goal("min", GOAL if "default of" in name else 0.9) for name in report.ratios}
    report.notes = ["ratios: tokens per second of answers"]
    return report


def _make_model(folder: Path) -> Path:
    store = Store(folder / "store")
    digest = store_folder(store, write_model(folder / "model", "llama", **SMOLLM2_135M))
    converted = convert.run(ConvertSpec(model=digest, store=str(store.folder)), Reporter("convert"))
    spec = QuantizeSpec(gguf=converted.manifest, type="Q8_0", store=str(store.folder))
    return store.blob_path(quantize.run(spec, Reporter("quantize")).blob)


def _measure(model: Path, cores: float, threads: int | None) -> Figures:
    """Of one run of llama-bench within a limit; without ``threads`` it counts them itself."""
    command = [sys.executable, "-m", "slm_pipelines.tools.llama_cpp", "exec", "llama-bench", "--model", str(model)]
    command += ["-p", "64", "-n", "16", "-r", "1", "-o", "json", *([] if threads is None else ["-t", str(threads)])]
    with cpu_limit(cores) as entering:
        done = subprocess.run([*entering, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    prompt, answer = json.loads(done.stdout)
    return {"promptTokensPerSecond": prompt["avg_ts"], "generatedTokensPerSecond": answer["avg_ts"]}
