"""Tells whoever scales engines what the gateway holds: at once when a request must wait, else once a second."""

import asyncio
from collections.abc import Awaitable, Callable

from slm_operator.gateway.admission import Admissions

PERIOD_SECONDS = 1.0
"""Of reports while nothing waits. A gateway that is silent for ten seconds is taken for broken."""
GAP_SECONDS = 0.02
"""Between two reports: a burst is one."""
Report = dict[str, tuple[int, int, int]]
"""Service to requests in flight, requests that wait, and requests that came since the last report, where any differs
from that. An empty one is a sign of life."""


class Reporter:
    """One gateway's reports."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()

    def wanted(self, _key: str, _in_flight: int, _waiting: int) -> None:
        """A request must wait; an ``admission.Demand``."""
        self._wake.set()

    async def run(self, admissions: Admissions, send: Callable[[Report], Awaitable[None]]) -> None:
        """Report to one receiver, which knows nothing yet, until ``send`` raises."""
        told: dict[str, tuple[int, int]] = {}
        begun: dict[str, int] = {key: total for key, (_, _, total) in admissions.loads().items()}
        while True:
            self._wake.clear()
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
                    await self._wake.wait()
            except TimeoutError:
                continue
