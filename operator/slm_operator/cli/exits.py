"""Exit codes of ``slm``: all of them, and which error leads to which."""

from typing import Final

from slm_operator.errors import InvalidManifest, NotFound, SlmError

OK: Final = 0
"""The command did what it was asked to do; `diff` found no difference."""
FAILURE: Final = 1
"""Something was refused, failed or is stalled, or `diff` found a difference; the message says what to change."""
USAGE: Final = 2
"""The command line is malformed."""
NOT_FOUND: Final = 3
"""A named object does not exist."""
TIMEOUT: Final = 4
"""What was waited for did not happen in time."""
NOT_RUNNING: Final = 5
"""The daemon is not running, and the command needs it."""
BAD_INPUT: Final = 65
"""A manifest cannot be accepted: nothing was changed, and trying again cannot help."""
INTERRUPTED: Final = 130
"""Ctrl-C."""

EPILOG: Final = (
    "Exit codes: 0 done, 1 failed or (diff) different, 2 malformed command line, 3 not found, "
    "4 waited too long, 5 the daemon is not running, 65 a manifest cannot be accepted, 130 interrupted."
)


class CommandFailed(SlmError):
    """A command cannot go on; carries its exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


def exit_code(error: SlmError) -> int:
    """The exit code of an error."""
    if isinstance(error, CommandFailed):
        return error.code
    if isinstance(error, InvalidManifest):
        return BAD_INPUT
    return NOT_FOUND if isinstance(error, NotFound) else FAILURE
