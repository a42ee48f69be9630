"""The ``slm`` command."""

import sys
from collections.abc import Sequence

import typer

from slm_operator.cli.exits import EPILOG, INTERRUPTED, OK, USAGE, exit_code
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

    Examples:
      slm run Qwen/Qwen3-0.6B "Why is the sky blue?"
      slm apply -k examples/demo && slm wait --for=condition=Ready slmsvc/demo --timeout 10m
      slm get slmmodels,quantjobs -o wide

    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every deliberate error becomes one line."""
    terminal.quiet = False
    command = typer.main.get_command(app)
    try:
        command.main(args=list(arguments), prog_name="slm")
    except SlmError as error:
        terminal.error(str(error))
        return exit_code(error)
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
