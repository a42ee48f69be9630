"""benchmark: tokens per second of one GGUF on this machine, with llama-bench."""

import json
import math
import platform
import re
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from slm_contract.reasons import Reason
from slm_contract.results import BenchmarkResult
from slm_contract.specs import BenchmarkSpec
from slm_pipelines.errors import BadInput, Retryable
from slm_pipelines.figures import Figures, gguf_blob, recall_or_measure
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Store
from slm_pipelines.tools.child import run_tool
from slm_pipelines.tools.cpus import cpu_threads
from slm_pipelines.tools.llama_cpp import Engine, locate

MIN_SAMPLED_SECONDS = 1.0
"""A tiny model generates for a few milliseconds per repetition, which says more about the scheduler than about it."""
MAX_REPETITIONS = 50


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor, or of its architecture where the kernel tells no name."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def devices(engine: Engine) -> str:
    """The accelerators the engine would use, as it lists them."""
    output = run_tool([engine.program("llama-bench"), "--list-devices"]).output
    listed = output.partition("Available devices:")[2].split("\n")
    return "; ".join(line.strip() for line in listed if line.strip())


def check_bounds(spec: BenchmarkSpec) -> None:
    """Raise BadInput InvalidSpec for a benchmark that measures nothing."""
    if min(spec.prompt_tokens, spec.generate_tokens, spec.repetitions) < 1:
        message = (
            f"promptTokens {spec.prompt_tokens}, generateTokens {spec.generate_tokens} and repetitions "
            f"{spec.repetitions} must each be 1 or more."
        )
        raise BadInput(Reason.INVALID_SPEC, message)


def _run_bench(engine: Engine, gguf: Path, spec: BenchmarkSpec, threads: int, repetitions: int) -> list[list[float]]:
    """Samples of prompt processing and of generation, tokens per second."""
    numbers = {"-p": spec.prompt_tokens, "-n": spec.generate_tokens, "-r": repetitions, "-t": threads}
    options = [part for name, value in numbers.items() for part in (name, str(value))]
    run = run_tool([engine.program("llama-bench"), "-m", gguf, "-o", "jsonl", *options])
    if run.code > 0 and "failed to load model" in run.output:
        message = f"llama.cpp cannot load the GGUF file: {run.complaint()}. Fetch or convert the model again."
        raise BadInput(Reason.INVALID_GGUF, message)
    run.require_success()
    tests: list[dict[str, Any]] = [json.loads(line) for line in run.output.splitlines() if line.startswith("{")]
    found = [[test["samples_ts"] for test in tests if test[size]] for size in ("n_prompt", "n_gen")]
    if not all(found):
        raise Retryable(Reason.MEASUREMENT_FAILED, f"llama-bench printed no figures: {run.complaint()}")
    return [samples[0] for samples in found]


def enough_repetitions(samples: list[float], tokens: int, asked: int) -> int:
    """Repetitions that fill MIN_SAMPLED_SECONDS at the speed of ``samples``, at least as many as asked for."""
    needed = math.ceil(MIN_SAMPLED_SECONDS * median(samples) / tokens)
    return max(asked, min(needed, MAX_REPETITIONS))


def spread(samples: list[float]) -> float:
    """Half the range of the middle half: unlike a deviation, one sample that met a busy neighbour does not set it."""
    lower, _, upper = quantiles(samples, n=4, method="inclusive")
    return (upper - lower) / 2


def _measure(engine: Engine, gguf: Path, spec: BenchmarkSpec, threads: int, reporter: Reporter) -> Figures:
    """Median and spread of as many samples as are asked for, or more where they take only milliseconds."""
    reporter.report(f"Measuring speed on {threads} threads")
    prompt, generate = _run_bench(engine, gguf, spec, threads, spec.repetitions)
    repetitions = enough_repetitions(generate, spec.generate_tokens, spec.repetitions)
    if repetitions > spec.repetitions:
        prompt, generate = _run_bench(engine, gguf, spec, threads, repetitions)
    # The median, not llama-bench's mean: one repetition that meets a busy neighbour would halve the mean.
    figures = {"promptTokensPerSecond": median(prompt), "generateTokensPerSecond": median(generate)}
    if repetitions > 1:
        figures |= {"promptSpread": spread(prompt), "generateSpread": spread(generate)}
    return figures


def run(spec: BenchmarkSpec, reporter: Reporter) -> BenchmarkResult:
    """Measure, or find that the store has the figures of this very machine.

    Raises BadInput InvalidSpec or InvalidGguf, Retryable MeasurementFailed or StepFailed.
    """
    check_bounds(spec)
    store, engine = Store(spec.store), locate(reporter)
    gguf = gguf_blob(store, spec.gguf)
    threads = spec.threads or cpu_threads()
    recipe = {
        "step": "benchmark",
        "gguf": gguf.digest,
        "promptTokens": spec.prompt_tokens,
        "generateTokens": spec.generate_tokens,
        "repetitions": spec.repetitions,
        "machine": f"{cpu_model()}; {devices(engine)}",
        "threads": threads,
        "tool": engine.version,
    }
    path = store.blob_path(gguf.digest)
    figures, cached = recall_or_measure(store, recipe, lambda: _measure(engine, path, spec, threads, reporter))
    return BenchmarkResult(
        prompt_tokens_per_second=figures["promptTokensPerSecond"],
        generate_tokens_per_second=figures["generateTokensPerSecond"],
        prompt_tokens_per_second_spread=figures.get("promptSpread"),
        generate_tokens_per_second_spread=figures.get("generateSpread"),
        threads=threads,
        cached=cached,
        tool=engine.version,
    )
