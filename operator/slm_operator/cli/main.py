"""The ``slm`` command."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from slm_operator.cli.exits import EPILOG, FAILURE, INTERRUPTED, OK, USAGE, exit_code
from slm_operator.cli.lazy import LazyGroup
from slm_operator.cli.terminal import Quiet, terminal
from slm_operator.errors import SlmError

app = typer.Typer(
    name="slm",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def slm(_quiet: Quiet = False) -> None:
    """Fetch, quantize, measure and serve small language models on this machine.

    `slm completion --help` says how to make your shell complete commands, kinds and names.

    Examples:
      slm run Qwen/Qwen3-0.6B "Why is the sky blue?"
      slm apply -k examples/demo && slm wait --for=condition=Ready slmsvc/demo --timeout 10m
      slm get slmmodels,quantjobs -o wide

    """


def describe_fault(error: OSError) -> str:
    """One sentence for what the operating system refused, with the variable that chooses another folder."""
    from slm_operator.settings import Settings  # noqa: PLC0415 - takes longer than all of `slm --help`

    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    text = f"{place}: {error.strerror or error}" if place else str(error)
    settings = Settings()
    folders = {"SLM_STATE_HOME": settings.state_home, "SLM_DATA_HOME": settings.data_home}
    names = [name for name, folder in folders.items() if place and _touch(place, folder)]
    return f"{text}; choose another folder with {names[0]}" if names else text


def _touch(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a deliberate error or a file that cannot be used is one line."""
    terminal.quiet = False
    command = typer.main.get_command(app)
    try:
        command.main(args=list(arguments), prog_name="slm")
    except SlmError as error:
        terminal.error(str(error))
        return exit_code(error)
    except OSError as error:
        # A folder or file of ours that cannot be used: whose variable names it is more help than a traceback.
        terminal.error(describe_fault(error))
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (OK if stop.code is None else USAGE)
    return OK


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
