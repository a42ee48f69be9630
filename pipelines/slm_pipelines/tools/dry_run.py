"""What llama-quantize would do with a file, without doing it: ``llama-quantize --dry-run``."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.tools.child import run_tool
from slm_pipelines.tools.llama_cpp import Engine

UNQUANTIZED = frozenset({"f32", "f16", "bf16"})


@dataclass(frozen=True)
class Misfit:
    """A matrix whose rows do not divide into the blocks of the type that was planned for it."""

    matrix: str
    row_length: int
    block_length: int


@dataclass(frozen=True)
class DryRun:
    """The parts of the printed plan that decide whether the work may start."""

    vocab_size: int
    size_bytes: int
    """Expected size of the tensors, which the tool prints to 0.01 MiB."""
    source_types: dict[str, str]
    """Matrix name to the type it is stored in."""
    target_types: frozenset[str]
    """Types that matrices would get."""
    misfits: tuple[Misfit, ...]
    """Every matrix that would get another type than planned."""


def _parse(output: str) -> DryRun:
    vocab = re.search(r"tokenizer\.ggml\.tokens arr\[str,(\d+)\]", output)
    size = re.search(r"quant size\s*=\s*([\d.]+) MiB", output)
    rows = re.findall(r"\] (\S+)\s+- \[[^\]]*\], type =\s*(\w+), size = .*?(?:\((\w+)\))?$", output, re.MULTILINE)
    misfits = re.findall(r"(\S+)\s+- ncols\s+(\d+) not divisible by\s+(\d+)", output)
    return DryRun(
        vocab_size=int(vocab[1]) if vocab else 0,
        size_bytes=int((float(size[1]) + 0.01) * 2**20) if size else 0,
        source_types={name: source for name, source, _ in rows},
        target_types=frozenset(target for _, _, target in rows if target),
        misfits=tuple(Misfit(name, int(row), int(block)) for name, row, block in misfits),
    )


def dry_run(engine: Engine, gguf: Path, type_name: str) -> DryRun:
    """The plan for a file and a type; raises BadInput InvalidGguf when the file cannot be read."""
    run = run_tool([engine.program("llama-quantize"), "--dry-run", gguf, type_name])
    plan = _parse(run.output)
    if run.code > 0 and not plan.misfits:  # For some types a misfit has no fallback and ends the run.
        message = f"llama.cpp cannot read the GGUF file: {run.complaint()}. Fetch or convert the model again."
        raise BadInput(Reason.INVALID_GGUF, message)
    if run.code < 0:
        run.require_success()
    return plan


def offered_types(engine: Engine) -> dict[str, str]:
    """Every type the engine makes; aliases such as Q4_K map to what they stand for, others to themselves."""
    output = run_tool([engine.program("llama-quantize"), "--help"]).output
    rows = re.findall(r"^\s*\d+\s+or\s+(\w+)\s*:(.*)$", output, re.MULTILINE)
    aliases = {name: re.search(r"alias for (\w+)", meaning) for name, meaning in rows}
    return {name: alias[1] if alias else name for name, alias in aliases.items()}


def check_offered(engine: Engine, wanted: str) -> str:
    """The canonical name of a type; raises BadInput UnknownType with close matches."""
    offered = offered_types(engine)
    if name := offered.get(wanted.upper()):
        return name
    close = difflib.get_close_matches(wanted.upper(), offered, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(sorted(offered))}."
    raise BadInput(Reason.UNKNOWN_TYPE, f"{engine.version} makes no quantization type {wanted!r}: {hint}")
