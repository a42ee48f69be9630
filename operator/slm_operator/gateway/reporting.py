"""Tells whoever scales engines what the gateway holds: at once when a request must wait, else once a second."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import astuple
from typing import Any

from slm_operator.core.answers import Answers, Tally, Times
from slm_operator.gateway.admission import Admissions
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.autoscaler import KIND, Load

PERIOD_SECONDS = 1.0
"""Of reports while nothing waits. A gateway that is silent for ten seconds is taken for broken."""
GAP_SECONDS = 0.02
"""Between two reports: a burst is one."""
Told = tuple[Any, ...]
"""An ``Answers`` as a report holds it: its fields and theirs, in order."""
Report = dict[str, tuple[int, int, int] | tuple[int, int, int, Told]]
"""Service to requests in flight, requests that wait, and requests that came since the last report, where any differs
from that; with a canary also to what came of the requests of its step so far. An empty one is a sign of life."""
LONGEST_LINE = 2**22
"""Bytes of a report: ten thousand services."""


def dump_report(report: Report) -> bytes:
    """A report as it travels: a line of JSON."""
    return json.dumps(report).encode() + b"\n"


def parse_report(line: bytes) -> dict[ObjectKey, Load]:
    """What a line tells; raises ValueError for one that is none."""
    loads = {}
    try:
        for name, (in_flight, waiting, begun, *rest) in json.loads(line).items():
            namespace, _, service = name.partition("/")
            answers = _parse_answers(*rest) if rest else None
            loads[ObjectKey(KIND, namespace, service)] = Load(int(in_flight), int(waiting), int(begun), answers)
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no report: {error}") from error
    return loads


def _parse_answers(told: list[Any]) -> Answers:
    step, *tracks = told
    stable, canary = (
        Tally(
            int(requests),
            int(errors),
            *(Times(int(count), float(total), float(squares)) for count, total, squares in times),
        )
        for requests, errors, *times in tracks
    )
    return Answers(str(step), stable, canary)


class Reporter:
    """One gateway's reports."""

    def __init__(self) -> None:
        self._wakes: set[asyncio.Event] = set()

    def wanted(self, _key: str, _in_flight: int, _waiting: int) -> None:
        """A request must wait; an ``admission.Demand``."""
        for wake in self._wakes:
            wake.set()

    async def run(self, admissions: Admissions, send: Callable[[Report], Awaitable[None]]) -> None:
        """Report to one receiver, which knows nothing yet, until ``send`` raises; several may run at a time."""
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            await self._run(admissions, send, wake)
        finally:
            self._wakes.discard(wake)

    async def _run(
        self, admissions: Admissions, send: Callable[[Report], Awaitable[None]], wake: asyncio.Event
    ) -> None:
        told: dict[str, tuple[int, int]] = {}
        counted: dict[str, Answers] = {}
        begun: dict[str, int] = {key: total for key, (_, _, total) in admissions.loads().items()}
        while True:
            wake.clear()
            report: Report = {}
            loads = admissions.loads()
            for key in told.keys() - loads.keys():
                report[key] = (0, 0, 0)  # The service is gone.
                del told[key]
            for key in begun.keys() - loads.keys():
                del begun[key]
            answers = admissions.answers()
            for key, (in_flight, waiting, total) in loads.items():
                before = begun.get(key, 0)
                new = total - before if total >= before else total  # A service of that name was made anew.
                begun[key] = total
                if new or told.get(key, (0, 0)) != (in_flight, waiting):
                    report[key] = (in_flight, waiting, new)
                    told[key] = (in_flight, waiting)
                if (tried := answers.get(key)) is not None and counted.get(key) != tried:
                    report[key] = (in_flight, waiting, new, astuple(tried))
                    told[key] = (in_flight, waiting)
            counted = answers
            await send(report)
            await asyncio.sleep(GAP_SECONDS)
            try:
                async with asyncio.timeout(PERIOD_SECONDS):
                    await wake.wait()
            except TimeoutError:
                continue
