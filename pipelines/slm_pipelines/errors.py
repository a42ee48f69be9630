"""Every exception a step raises on purpose.

StepFailure            carries a Reason and a sentence for the user
├── BadInput           the model, text or source is at fault: exit code 65, never retried
└── Retryable          network, disk or another process was at fault: exit code 75
    └── Broken         a connection broke in the middle: asking for the rest at once may help
"""

from slm_contract.reasons import Reason


class StepFailure(Exception):
    """A step cannot go on."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class BadInput(StepFailure):
    """Trying again cannot help until the input changes."""


class Retryable(StepFailure):
    """Trying again may help."""


class Broken(Retryable):
    """What came until now is good. No other Retryable may be answered by asking again at once."""
