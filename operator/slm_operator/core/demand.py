"""What gateways report of one service, and what it amounts to over a window.

A report holds until the same gateway's next one: demand is a step function per gateway, and averages are weighted by
time, so that it does not matter how often a gateway reports. Times are seconds of one clock, that of whoever receives
the reports; gateways' own clocks are never compared.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STABLE_WINDOW_SECONDS = 60.0
"""Window whose average decides in calm times; Knative's ``stable-window``."""
PANIC_WINDOW_SECONDS = 6.0
"""Window that shows a burst; Knative's ``panic-window-percentage``, 10 % of the stable one."""
STALE_SECONDS = 10.0
"""A gateway that has not reported for so long is not known: gateways report every change, and at rest every second or
two, so that several reports must be missing."""


@dataclass(frozen=True)
class Sample:
    """One report of one gateway about one service."""

    gateway: str
    """Name of the gateway's pod."""
    at_seconds: float
    """When it was received."""
    in_flight: int = 0
    """Requests that an engine is answering."""
    queued: int = 0
    """Requests that the gateway holds."""
    begun: int | None = None
    """Requests that came since the last report: short ones may have ended in between, and are demand all the same.
    None: the gateway does not count them."""

    @property
    def total(self) -> int:
        """Requests that are there."""
        return self.in_flight + self.queued


@dataclass(frozen=True)
class Demand:
    """The reports of the last stable window by gateway, each tuple oldest first."""

    reports: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)

    def add(self, sample: Sample) -> "Demand":
        """With one more report; one that was overtaken by a newer report of the same gateway is left out."""
        before = self.reports.get(sample.gateway, ())
        if before and sample.at_seconds < before[-1].at_seconds:
            return self
        begins = sample.at_seconds - STABLE_WINDOW_SECONDS
        # The last report before the window says what held when the window began.
        outside = bisect_right(before, begins, key=lambda each: each.at_seconds)
        kept = before[max(0, outside - 1) :]
        return Demand({**self.reports, sample.gateway: (*kept, sample)})

    def keep(self, gateways: Iterable[str]) -> "Demand":
        """Without gateways that no longer exist: the requests they held are gone with them."""
        existing = set(gateways)
        return Demand({name: samples for name, samples in self.reports.items() if name in existing})

    @property
    def in_flight(self) -> int:
        """Requests that engines answer, by the latest reports."""
        return sum(samples[-1].in_flight for samples in self.reports.values())

    @property
    def total(self) -> int:
        """Requests that are there, by the latest reports."""
        return sum(samples[-1].total for samples in self.reports.values())

    def average(self, seconds: float, now: float) -> float:
        """Requests on average over the last ``seconds``."""
        return sum(_area(samples, now - seconds, now) for samples in self.reports.values()) / seconds

    def rate(self, seconds: float, now: float) -> float:
        """Requests that came, per second, over the last ``seconds``."""
        return sum(each.begun or 0 for each in self._since(now - seconds)) / seconds

    def service_seconds(self, now: float) -> float | None:
        """How long an engine takes for a request; None where nobody counts, or none ended.

        Time in engines by requests that ended (Little's law), over the stable window.
        """
        begins = now - STABLE_WINDOW_SECONDS
        inside = self._since(begins)
        if any(each.begun is None for each in inside):
            return None
        before = sum(_held_at(samples, begins) for samples in self.reports.values())
        ended = sum(each.begun or 0 for each in inside) + before - self.total
        busy = sum(_area(samples, begins, now, in_flight=True) for samples in self.reports.values())
        return busy / ended if ended > 0 and busy > 0 else None

    def _since(self, begin: float) -> list[Sample]:
        return [each for samples in self.reports.values() for each in samples if each.at_seconds > begin]

    def silent(self, now: float) -> dict[str, float]:
        """Gateways that stopped reporting, with the seconds since their last report."""
        ages = {name: now - samples[-1].at_seconds for name, samples in self.reports.items()}
        return {name: age for name, age in sorted(ages.items()) if age > STALE_SECONDS}

    def active_at(self, since: float, now: float) -> float | None:
        """When the last request was seen, no earlier than ``since``; None when none was."""
        if self.total:
            return now
        seen = [at for samples in self.reports.values() if (at := _last_seen(samples)) is not None and at >= since]
        return max(seen, default=None)


def _held_at(samples: tuple[Sample, ...], moment: float) -> int:
    """Requests that were there at a moment, by the last report before it."""
    return next((each.total for each in reversed(samples) if each.at_seconds <= moment), 0)


def _area(samples: tuple[Sample, ...], begin: float, end: float, *, in_flight: bool = False) -> float:
    """Requests times seconds between ``begin`` and ``end``: all of them, or those that engines answer."""
    area = 0.0
    for sample in reversed(samples):
        from_seconds = max(begin, sample.at_seconds)
        if end > from_seconds:
            area += (sample.in_flight if in_flight else sample.total) * (end - from_seconds)
            end = from_seconds
        if sample.at_seconds <= begin:
            break
    return area


def _last_seen(samples: tuple[Sample, ...]) -> float | None:
    """When a gateway whose latest report is zero last saw a request."""
    for before, after in zip(reversed(samples[:-1]), reversed(samples[1:]), strict=True):
        if after.begun or before.total:
            return after.at_seconds
    return samples[0].at_seconds if samples[0].begun else None
