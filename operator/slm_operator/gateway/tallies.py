"""What came of a service's requests in the step of its canary."""

from slm_operator.core.answers import Answers, Tally, Times
from slm_operator.gateway.directory import Canary
from slm_operator.gateway.record import Record

FAULTS = frozenset(
    {"engine_failed", "engine_timeout", "truncated", "refused_by_engine", "unsupported_media", "wrong_task"}
)
"""Verdicts that count as failures. What engines refuse is mostly the client's fault, but of both tracks alike: where
one of them refuses more, as with a shorter context, that is a difference. What its client left says nothing."""


class StepTally:
    """The count of the present step; a request counts for the step in which it was taken in, and no other."""

    def __init__(self) -> None:
        self.answers: Answers | None = None
        """None while nothing is tried."""

    def update(self, canary: Canary | None) -> None:
        """What is tried now."""
        if canary is None:
            self.answers = None
        elif self.answers is None or self.answers.step != canary.step:
            self.answers = Answers(canary.step)

    def observe(self, record: Record) -> None:
        """A request of the service has ended."""
        canary = record.service.canary if record.service else None
        if self.answers is None or canary is None or canary.step != self.answers.step:
            return
        failed = set(record.failed)
        if record.verdict in FAULTS and record.endpoint:  # What reached no engine says nothing of any.
            failed.add(record.canary)
        stable, tried = (_tally(record, failed, canary=each) for each in (False, True))
        self.answers += Answers(canary.step, stable, tried)


def _tally(record: Record, failed: set[bool], *, canary: bool) -> Tally:
    """One request as one track saw it."""
    if canary in failed:
        return Tally(requests=1, errors=1)
    if record.verdict != "ok" or not record.first_byte or record.canary != canary:
        return Tally()
    # What was begun by an engine that failed took as long as both.
    return Tally(requests=1) if failed else Tally(1, 0, *_times(record))


def _times(record: Record) -> tuple[Times, Times, Times]:
    """To the first token of a stream, for each further one, and for each of another answer."""
    first, tokens = record.first_byte - record.admitted, record.completion_tokens
    if not record.stream:
        return Times(), Times(), Times.of(first / max(1, tokens))
    each = Times.of((record.ended - record.first_byte) / (tokens - 1)) if tokens > 1 else Times()
    return Times.of(first), each, Times()
