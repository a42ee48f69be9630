"""What can go wrong between an operator and its API server, as rules: which calls, how often, and what happens."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.api_calls import READS, WRITES, Call

REASONS = {
    400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 429: "TooManyRequests",
    500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


@dataclass
class Fault:
    """One rule. A call it does not pick goes on to the next rule, and without any to the API server."""

    status: int = 0
    """Answer with this HTTP status and a Kubernetes Status as body; 0 lets the true answer through."""
    after: bool = False
    """Only after the API server did what was asked; its answer is lost, or late. Picks no watch, which has no end."""
    drop: bool = False
    """Close the connection instead of answering."""
    event: bool = False
    """For watches: answer 200, with ``status`` in an ERROR event inside the stream, as an API server may."""
    delay_seconds: float = 0.0
    """Wait before forwarding or, with ``after``, before answering."""
    retry_after_seconds: int | None = None
    """The Retry-After header."""
    verbs: frozenset[str] = WRITES | READS
    resources: frozenset[str] = frozenset()
    """As ``Call.resource`` has it; empty means all."""
    share: float = 1.0
    """Share of the calls that are picked, 0 to 1."""
    limit: int | None = None
    """Most calls that are picked."""
    picked: int = field(default=0, init=False)
    """Calls that were picked so far."""

    def picks(self, call: Call, dice: random.Random) -> bool:
        """Whether this call is picked; counts it."""
        if call.verb not in self.verbs or (self.resources and call.resource not in self.resources):
            return False
        if self.after and call.verb == "watch":
            return False
        if self.limit is not None and self.picked >= self.limit:
            return False
        if self.share < 1.0 and dice.random() >= self.share:
            return False
        self.picked += 1
        return True

    @property
    def replaces_answer(self) -> bool:
        """Whether the client never sees the true answer."""
        return bool(self.status) or self.drop

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        retry = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return {"Content-Type": "application/json", **retry}

    def body(self, call: Call) -> bytes:
        """The Status, or the watch event that holds it, one JSON line."""
        status = build_status(self.status, f"injected: {call.verb} {call.resource}", self.retry_after_seconds)
        return json.dumps({"type": "ERROR", "object": status} if self.event else status).encode() + b"\n"


def build_status(code: int, message: str, retry_after_seconds: int | None = None) -> dict[str, Any]:
    """A Kubernetes Status of a failure."""
    details = {} if retry_after_seconds is None else {"details": {"retryAfterSeconds": retry_after_seconds}}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": REASONS.get(code, "Unknown"),
        "code": code,
        **details,
    }


def gone(how: Literal["status", "event"], resources: Sequence[str] = (), limit: int = 1) -> Fault:
    """The next watches are told that their resource version is too old, in one of the two ways there are."""
    return Fault(
        status=410, event=how == "event", verbs=frozenset({"watch"}), resources=frozenset(resources), limit=limit
    )


def pick(faults: Sequence[Fault], call: Call, dice: random.Random) -> Fault | None:
    """The first rule that picks the call."""
    return next((fault for fault in faults if fault.picks(call, dice)), None)
