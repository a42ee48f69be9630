"""A line per request: who asked which model, what came of it, how long it took; never the prompt or the answer.

Each line holds the SHA-256 of the one before, so that none can be changed, taken out or put in without all later ones
being written anew. Whoever keeps the hash of a line elsewhere can tell that too, and that the end is missing.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from slm_operator.gateway.record import Record

FIRST = "0" * 64
"""What the first line has in place of a hash."""
LONGEST_MODEL = 128
"""What clients call a model is their text: it is cut here."""


QUOTE = json.encoder.encode_basestring_ascii
"""A text as JSON."""


def hash_line(line: bytes) -> str:
    """The hash of a line without its end, which the next one holds."""
    return sha256(line).hexdigest()


class Chain:
    """Makes lines, each with the hash of the one before."""

    def __init__(self, previous: str = FIRST, number: int = 0) -> None:
        self.previous = previous
        """The hash of the last line."""
        self.number = number
        """How many lines there are."""
        self._second, self._second_text = -1, ""

    def append(self, record: Record, wall_seconds: float) -> bytes:
        """The line of a request that ended at this Unix time, with its end."""
        self.number += 1
        line = self._line(record, int(wall_seconds * 1000)).encode()
        self.previous = hash_line(line)
        return line + b"\n"

    def _line(self, record: Record, wall_milliseconds: int) -> str:
        """JSON, written out: an encoder takes longer for it than all else that a line needs."""
        service = "" if record.service is None else record.service.key
        return (
            f'{{"number":{self.number},"previous":"{self.previous}","time":"{self._stamp(wall_milliseconds)}",'
            f'"requestId":{QUOTE(record.request_id)},"caller":{QUOTE(record.caller)},"route":{QUOTE(record.route)},'
            f'"model":{QUOTE(record.model[:LONGEST_MODEL])},"service":{QUOTE(service)},"digest":{QUOTE(record.digest)},'
            f'"engine":{QUOTE(record.endpoint)},"attempts":{record.attempts},"status":{record.status},'
            f'"verdict":{QUOTE(record.verdict)},"promptTokens":{record.prompt_tokens},'
            f'"completionTokens":{record.completion_tokens},"estimated":{"true" if record.estimated else "false"},'
            f'"queueMs":{_milliseconds(record.arrived, record.admitted)},'
            f'"firstByteMs":{_milliseconds(record.arrived, record.first_byte)},'
            f'"totalMs":{_milliseconds(record.arrived, record.ended)}}}'
        )

    def _stamp(self, milliseconds: int) -> str:
        """RFC 3339, in UTC. Most lines are of the same second as the one before."""
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second, self._second_text = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._second_text}.{rest:03}+00:00"


def _milliseconds(start: float, end: float) -> float | str:
    return round((end - start) * 1000, 1) if end else "null"


@dataclass(frozen=True)
class Verified:
    """What a chain of lines is worth."""

    lines: int
    """So many lines from the first on are as they were written."""
    last: str
    """The hash of the last of them, to be compared with one that was kept elsewhere."""
    problem: str = ""
    """What is wrong with the line after them; empty: nothing."""


def verify(lines: Iterable[bytes]) -> Verified:
    """Check a chain from its first line on. A line that was cut by a crash is a problem like any other."""
    previous, count = FIRST, 0
    for line in lines:
        problem = _check(line.removesuffix(b"\n"), previous, count + 1)
        if problem:
            return Verified(count, previous, f"line {count + 1} {problem}")
        previous, count = hash_line(line.removesuffix(b"\n")), count + 1
    return Verified(count, previous)


def _check(line: bytes, previous: str, number: int) -> str:
    try:
        fields = json.loads(line)
    except ValueError:
        return "is no JSON: it was cut, or changed"
    if not isinstance(fields, dict) or fields.get("previous") != previous:
        return "does not follow the one before: that one was changed, or a line was taken out or put in"
    if fields.get("number") != number:
        return f"has the number {fields.get('number')}: lines were taken out or put in"
    return ""
