"""Tells whoever scales engines what the gateway holds: at once when a request must wait, else once a second."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from slm_operator.gateway.admission import Admissions
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.autoscaler import KIND, Load

PERIOD_SECONDS = 1.0
"""Of reports while nothing waits. A gateway that is silent for ten seconds is taken for broken."""
GAP_SECONDS = 0.02
"""Between two reports: a burst is one."""
Report = dict[str, tuple[int, int, int]]
"""Service to requests in flight, requests that wait, and requests that came since the last report, where any differs
from that. An empty one is a sign of life."""
LONGEST_LINE = 2**22
"""Bytes of a report: ten thousand services."""


def dump_report(report: Report) -> bytes:
    """A report as it travels: a line of JSON."""
    return json.dumps(report).encode() + b"\n"


def parse_report(line: bytes) -> dict[ObjectKey, Load]:
    """What a line tells; raises ValueError for one that is none."""
    loads = {}
    try:
        for name, (in_flight, waiting, begun) in json.loads(line).items():
            namespace, _, service = name.partition("/")
            loads[ObjectKey(KIND, namespace, service)] = Load(int(in_flight), int(waiting), int(begun))
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no report: {error}") from error
    return loads


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
            for key, (in_flight, waiting, total) in loads.items():
                before = begun.get(key, 0)
                new = total - before if total >= before else total  # A service of that name was made anew.
                begun[key] = total
                if new or told.get(key, (0, 0)) != (in_flight, waiting):
                    report[key] = (in_flight, waiting, new)
                    told[key] = (in_flight, waiting)
            await send(report)
            await asyncio.sleep(GAP_SECONDS)
            try:
                async with asyncio.timeout(PERIOD_SECONDS):
                    await wake.wait()
            except TimeoutError:
                continue
