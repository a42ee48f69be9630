"""Every exception the operator raises on purpose.

SlmError
├── InvalidManifest      the user's manifest breaks a rule; carries a Reason, never retried
├── NotFound             a named object does not exist
├── Conflict             the object changed in between; looked at again
│   └── NameTaken        an object of that name belongs to somebody else
├── NamespaceEnding      the namespace is being deleted, so nothing can be created in it
├── ClusterUnavailable   the API server or the local backend cannot be reached; retried
│   └── NotLeading       another replica of the operator acts, so this one must not write
├── Refused              the API server will not take the object: quota, admission, RBAC; retried slowly
├── DaemonRunning        another daemon holds the state folder
└── EngineMissing        llama.cpp is neither found nor installable
"""

from slm_contract.reasons import Reason


class SlmError(Exception):
    """Base of all; ``str(error)`` is one sentence for the user."""


class InvalidManifest(SlmError):
    """The manifest cannot be accepted as it is."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_SPEC) -> None:
        super().__init__(message)
        self.reason = reason


class NotFound(SlmError):
    """A named object does not exist."""


class Conflict(SlmError):
    """The object changed or went away in between: look again."""


class NameTaken(Conflict):
    """An object of that name exists and belongs to somebody else, so somebody must rename something."""


class NamespaceEnding(SlmError):
    """The namespace is being deleted, so nothing can be created in it."""


class ClusterUnavailable(SlmError):
    """The API server or local backend cannot be reached."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotLeading(ClusterUnavailable):
    """Another replica of the operator acts (or may, by now), so this one must not write."""


class Refused(SlmError):
    """The API server will not take an object as it is: a quota, an admission policy, a missing permission."""


class DaemonRunning(SlmError):
    """Another daemon holds the state folder."""


class EngineMissing(SlmError):
    """llama.cpp is neither found nor installable."""
