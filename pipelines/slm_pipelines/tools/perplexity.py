"""llama-perplexity and llama-tokenize: how they are started and what their text output says."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput, Retryable
from slm_pipelines.progress import Reporter
from slm_pipelines.tools.child import ToolRun, run_tool
from slm_pipelines.tools.cpus import cpu_threads
from slm_pipelines.tools.llama_cpp import Engine

MAX_TRIES = 12
"""A run of a tiny model loses its last lines in up to 1 of 5 runs (see run_tool): 12 in a row are 1 in 10^8."""
NUMBER = r"(-?(?:\d[\d.]*(?:e[+-]?\d+)?|nan|inf))"
FINAL_PERPLEXITY = {"perplexity": rf"Final estimate: PPL = {NUMBER}"}
DIVERGENCE = {
    "perplexity": rf"Mean PPL\(Q\)\s*:\s*{NUMBER}",
    "klDivergence": rf"Mean\s+KLD:\s*{NUMBER}",
    "klDivergenceP99": rf"99\.0%\s+KLD:\s*{NUMBER}",
    "topOneAgreement": rf"Same top p:\s*{NUMBER}",
}
"""Figure to where it is printed; top-one agreement is printed in percent."""
CHUNK_DONE = re.compile(r"\[(\d+)\][\d.]|^\s+(\d+)\s+\d[\d.]* ±", re.MULTILINE)
"""A finished chunk, in the form of either mode."""


def count_tokens(engine: Engine, gguf: Path, text: Path) -> int:
    """Tokens of a text, counted as llama-perplexity counts them."""
    run = run_tool(
        [engine.program("llama-tokenize"), "-m", gguf, "-f", text, "--no-parse-special", "--ids", "--show-count"]
    )
    if run.code > 0:  # The text was read before, so only the model can be at fault, whether or not it says so.
        raise _unreadable(run)
    run.require_success()
    count = re.search(r"Total number of tokens: (\d+)", run.output)
    if count is None:
        raise Retryable(Reason.MEASUREMENT_FAILED, f"llama-tokenize did not print a count: {run.complaint()}")
    return int(count[1])


def logits_size_bytes(vocab_size: int, context_size: int, chunks: int) -> int:
    """Exact size of a logits file: header, tokens, and 16-bit logits with two floats for half of each chunk.

    The format is that of llama.cpp's tools/perplexity/perplexity.cpp (``_logits_``).
    """
    row_bytes = 2 * (2 * ((vocab_size + 1) // 2) + 4)
    rows = chunks * (context_size - 1 - context_size // 2)
    return 20 + 4 * chunks * context_size + rows * row_bytes


def _unreadable(run: ToolRun) -> BadInput:
    message = f"llama.cpp cannot load the GGUF file: {run.complaint()}. Fetch or convert the model again."
    return BadInput(Reason.INVALID_GGUF, message)


def _figures(output: str, wanted: dict[str, str]) -> dict[str, float] | None:
    """Every wanted figure, or None when one is missing; raises BadInput MeasurementFailed for NaN."""
    found = {name: re.search(pattern, output) for name, pattern in wanted.items()}
    figures = {name: float(match[1]) for name, match in found.items() if match}
    if bad := [name for name, value in figures.items() if not math.isfinite(value)]:
        message = f"The engine measured a {bad[0]} that is not a number: the weights are damaged, fetch them again."
        raise BadInput(Reason.MEASUREMENT_FAILED, message)
    return figures if len(figures) == len(wanted) else None


@dataclass(frozen=True)
class Measurement:
    """llama-perplexity on one file."""

    engine: Engine
    gguf: Path
    context_size: int
    chunks: int
    threads: int
    reporter: Reporter

    def perplexity(self, text: Path) -> float:
        """Perplexity on a text."""
        return self._measure(FINAL_PERPLEXITY, ["-f", text])["perplexity"]

    def make_logits(self, text: Path, target: Path, size_bytes: int) -> float:
        """Write the logits that variants are compared with; returns the perplexity."""
        perplexity = self._measure(FINAL_PERPLEXITY, ["-f", text, "--save-all-logits", target])["perplexity"]
        written = target.stat().st_size
        if written != size_bytes:
            message = f"llama-perplexity wrote {written} bytes of logits where {size_bytes} were due; is the disk full?"
            raise Retryable(Reason.MEASUREMENT_FAILED, message)
        return perplexity

    def divergence(self, logits: Path) -> dict[str, float]:
        """Perplexity, KL divergence (mean and 99th percentile, nats), top-one agreement (0 to 1) against a baseline."""
        figures = self._measure(DIVERGENCE, ["--kl-divergence-base", logits, "--kl-divergence"])
        return {**figures, "topOneAgreement": round(figures["topOneAgreement"] / 100, 7)}

    def _measure(self, wanted: dict[str, str], arguments: list[str | Path]) -> dict[str, float]:
        """Run until every wanted figure was printed."""
        shape = ["-c", str(self.context_size), "--chunks", str(self.chunks)]
        threads = ["-t", str(self.threads or cpu_threads())]
        argv = [self.engine.program("llama-perplexity"), "-m", self.gguf, *shape, *threads, *arguments]
        for _ in range(MAX_TRIES):
            run = run_tool(argv, self._report)
            if run.code > 0 and re.search(r"(failed|unable) to load|error loading model", run.output):
                raise _unreadable(run)
            if "inconsistent vocabulary" in run.output:
                message = "The variant and the baseline have different vocabularies: name the GGUF it was made from."
                raise BadInput(Reason.INVALID_GGUF, message)
            if run.code == 0 and (figures := _figures(run.output, wanted)):
                return figures
        run.require_success()
        message = f"llama-perplexity ran {MAX_TRIES} times and never printed all of {', '.join(wanted)}."
        raise Retryable(Reason.MEASUREMENT_FAILED, message)

    def _report(self, output: str) -> None:
        if done := CHUNK_DONE.findall(output[-4096:]):
            self.reporter.report("Measuring", int(done[-1][0] or done[-1][1]), self.chunks, "chunks")
