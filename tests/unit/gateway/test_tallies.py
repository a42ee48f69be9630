"""What of a request counts for a canary's step, and for which of the two tracks."""

from typing import Any

import pytest

from slm_operator.core.answers import Answers, Tally, Times
from slm_operator.gateway.directory import Canary, Service
from slm_operator.gateway.record import Record
from slm_operator.gateway.tallies import StepTally

STEP = Canary("one", 10)
GOOD, BAD, NONE = Tally(1), Tally(1, 1), Tally()


def record(step: Canary | None = STEP, **fields: Any) -> Record:
    """A stream of eleven tokens: the first after a second in an engine, each further one after 0.1 s."""
    times = {"admitted": 3.0, "first_byte": 4.0, "ended": 5.0}
    given = {"endpoint": "e0", "verdict": "ok", "stream": True, "completion_tokens": 11, **times, **fields}
    return Record("id", "/v1/chat/completions", 0.0, service=Service("default", "qwen", canary=step), **given)


def observe(*records: Record, canary: Canary | None = STEP) -> Answers | None:
    made = StepTally()
    made.update(canary)
    for each in records:
        made.observe(each)
    return made.answers


def only(stable: Tally, canary: Tally) -> Answers:
    return Answers("one", stable, canary)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, only(Tally(1, 0, Times.of(1.0), Times.of(0.1)), NONE)),
        ({"canary": True}, only(NONE, Tally(1, 0, Times.of(1.0), Times.of(0.1)))),
        ({"completion_tokens": 1}, only(Tally(1, 0, Times.of(1.0)), NONE)),
        ({"stream": False, "completion_tokens": 10}, only(Tally(1, 0, Times(), Times(), Times.of(0.1)), NONE)),
        ({"stream": False, "completion_tokens": 0}, only(Tally(1, 0, Times(), Times(), Times.of(1.0)), NONE)),
        ({"verdict": "cancelled"}, only(NONE, NONE)),
        ({"verdict": "refused_by_engine", "canary": True}, only(NONE, BAD)),
        ({"verdict": "unsupported_media", "canary": True}, only(NONE, BAD)),
        ({"verdict": "wrong_task", "canary": True}, only(NONE, BAD)),
        ({"verdict": "wrong_task", "endpoint": "", "first_byte": 0.0}, only(NONE, NONE)),
        ({"verdict": "queue_full", "first_byte": 0.0}, only(NONE, NONE)),
        ({"verdict": "engine_failed", "canary": True}, only(NONE, BAD)),
        ({"verdict": "engine_timeout"}, only(BAD, NONE)),
        ({"verdict": "truncated", "canary": True}, only(NONE, BAD)),
        ({"failed": {True}}, only(GOOD, BAD)),
        ({"failed": {True}, "verdict": "cancelled"}, only(NONE, BAD)),
        ({"failed": {True}, "canary": True}, only(NONE, BAD)),
        ({"failed": {True}, "verdict": "engine_failed"}, only(BAD, BAD)),
        ({"failed": {True}, "verdict": "engine_failed", "canary": True}, only(NONE, BAD)),
    ],
)
def test_what_a_request_counts_for(fields: dict[str, Any], expected: Answers) -> None:
    assert observe(record(**fields)) == expected


def test_a_request_counts_for_the_step_in_which_it_was_taken_in_and_for_no_other() -> None:
    assert observe(record(Canary("zero", 5)), record(None)) == only(NONE, NONE)
    assert observe(record(), canary=None) is None


def test_a_step_begins_at_nothing_and_ends_with_the_canary() -> None:
    made = StepTally()
    made.update(STEP)
    made.observe(record())
    made.update(Canary("one", 10))
    assert made.answers is not None
    assert made.answers.stable.requests == 1
    made.update(Canary("two", 50))
    assert made.answers == Answers("two")
    made.update(None)
    assert made.answers is None
