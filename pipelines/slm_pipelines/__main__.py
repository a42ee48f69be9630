"""``python -m slm_pipelines STEP --spec FILE``: run one step and exit with a code that says what to do next."""

import argparse
import contextlib
import errno
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slm_contract import exitcodes, specs
from slm_contract.base import Message
from slm_contract.bounds import MAX_OUTCOME_BYTES
from slm_contract.reasons import Reason
from slm_contract.results import AnyResult, Outcome, StepError
from slm_pipelines.errors import BadInput, StepFailure
from slm_pipelines.progress import Reporter
from slm_pipelines.store import store_lock

STEPS: dict[str, type[Message]] = {
    "resolve": specs.ResolveSpec,
    "acquire": specs.AcquireSpec,
    "convert": specs.ConvertSpec,
    "adapt": specs.AdaptSpec,
    "snapshot": specs.SnapshotSpec,
    "vocabulary": specs.VocabularySpec,
    "projector": specs.ProjectorSpec,
    "quantize": specs.QuantizeSpec,
    "evaluate": specs.EvaluateSpec,
    "benchmark": specs.BenchmarkSpec,
    "report": specs.ReportSpec,
    "collect": specs.CollectSpec,
}
"""Step name to spec; the code of a step is ``slm_pipelines.steps.<name>.run(spec, reporter) -> result``."""

Step = Callable[[Any, Reporter], AnyResult]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m slm_pipelines",
        description="Run one pipeline step: JSON spec in, JSON-lines progress on standard output, JSON result out.",
        epilog=(
            "example: python -m slm_pipelines quantize --spec quantize.json --result result.json\n"
            "exit codes: 0 done, 64 malformed spec, 65 bad input (do not retry), 70 bug, 75 try again"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=sorted(STEPS))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--spec", type=Path, help="file with the step's JSON spec; - reads standard input")
    source.add_argument("--spec-env", metavar="NAME", help="environment variable that holds the JSON spec")
    parser.add_argument(
        "--result",
        type=Path,
        default=Path(os.environ.get("SLM_TERMINATION_LOG", "/dev/stdout")),
        help="where the JSON outcome goes (default: $SLM_TERMINATION_LOG, else standard output)",
    )
    return parser


def read_spec(args: argparse.Namespace) -> Message:
    """The validated spec; raises ValidationError, OSError or KeyError."""
    if args.spec_env:
        text = os.environ[args.spec_env]
    elif str(args.spec) == "-":
        text = sys.stdin.read()
    else:
        text = args.spec.read_text(encoding="utf-8")
    return STEPS[args.step].model_validate_json(text)


def peak_memory_bytes() -> int:
    """Highest resident memory of this process or of its largest child so far.

    Our own is VmHWM of proc_pid_status(5): ru_maxrss survives exec, so it would tell what our parent held when it
    started us. A child's ru_maxrss holds what *we* held when we started it, which is never more than our own peak.
    """
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        own = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return max(own, child) * 1024


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write the outcome where the platform reads it."""
    path.write_bytes(outcome.encode())


def describe_fault(name: str, failure: OSError) -> StepError:
    """A fault of the machine, in words; a full disk gets its own reason."""
    if failure.errno in {errno.ENOSPC, errno.EDQUOT}:
        message = f"The disk filled up during {name}: free some space, or delete objects that nobody"
        message += " needs (and on a laptop run `slm gc`); what is whole is kept."
        return StepError.of(Reason.INSUFFICIENT_SPACE, message)
    return StepError.of(Reason.STEP_FAILED, f"{name} failed: {failure}.")


def shared_store(name: str, spec: Message) -> contextlib.AbstractContextManager[None]:
    """The lock under which a step touches its store."""
    folder = getattr(spec, "store", "")
    return store_lock(folder, alone=name == "collect") if folder else contextlib.nullcontext()


def run_step(name: str, spec: Message) -> tuple[int, Outcome]:
    """Run the step; every failure becomes an exit code and a StepError."""
    started = time.monotonic()
    result: AnyResult | None = None
    error: StepError | None = None
    code = exitcodes.OK
    try:
        step: Step = import_module(f"slm_pipelines.steps.{name}").run
        with shared_store(name, spec):
            result = step(spec, Reporter(name))
    except StepFailure as failure:
        code = exitcodes.BAD_INPUT if isinstance(failure, BadInput) else exitcodes.RETRYABLE
        error = StepError.of(failure.reason, failure.message)
    except OSError as failure:
        code = exitcodes.RETRYABLE
        error = describe_fault(name, failure)
    except Exception as failure:  # noqa: BLE001 - a bug too must leave a result behind
        traceback.print_exc()
        code = exitcodes.INTERNAL
        error = StepError.of(Reason.INTERNAL_ERROR, f"{name} hit a bug: {failure!r}.")
    seconds = round(time.monotonic() - started, 3)
    outcome = Outcome(result=result, error=error, peak_memory_bytes=peak_memory_bytes(), seconds=seconds)
    if len(outcome.encode()) > MAX_OUTCOME_BYTES:
        error = StepError.of(Reason.INTERNAL_ERROR, f"{name} hit a bug: its result does not fit a termination message.")
        return exitcodes.INTERNAL, outcome.model_copy(update={"result": None, "error": error})
    return code, outcome


def main(argv: list[str] | None = None) -> int:
    """Parse, run, write the outcome, return the exit code."""
    args = build_parser().parse_args(argv)
    try:
        spec = read_spec(args)
    except (ValidationError, OSError, KeyError, UnicodeDecodeError) as failure:
        message = f"The spec of {args.step} cannot be used: {failure}"
        write_outcome(args.result, Outcome(error=StepError.of(Reason.INVALID_SPEC, message)))
        return exitcodes.USAGE
    code, outcome = run_step(args.step, spec)
    write_outcome(args.result, outcome)
    if outcome.error is not None:
        sys.stderr.write(f"{outcome.error.reason}: {outcome.error.message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
