"""What is said to the user, and where: results on standard output, everything else on standard error."""

import re
import sys
from typing import Annotated

import typer

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text with control characters spelled out: a manifest or a model must not steer the terminal."""
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


class Terminal:
    """The two streams; ``quiet`` silences all but results and errors."""

    quiet = False

    def result(self, text: str) -> None:
        """Print what the command was run for."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a result line that -q leaves out."""
        if not self.quiet:
            self.result(text)

    def hint(self, text: str) -> None:
        """Tell something on the side; -q leaves it out."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def error(self, text: str) -> None:
        """Print why the command failed."""
        sys.stderr.write(f"error: {printable(text)}\n")

    def draws(self) -> bool:
        """Whether progress bars make sense."""
        return sys.stderr.isatty() and not self.quiet


terminal = Terminal()
"""The one terminal of this process."""


def _set_quiet(value: bool) -> bool:
    terminal.quiet = terminal.quiet or value
    return value


Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print only results and errors.", callback=_set_quiet, show_default=False)
]
"""The -q that every talkative command takes."""
