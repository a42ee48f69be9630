"""What one decision is made from, and a step of it."""

from dataclasses import dataclass

from slm_operator.core.autoscale_policy import Engines, Memory, Policy
from slm_operator.core.demand import Demand


@dataclass(frozen=True)
class Step:
    """A number of engines, and why."""

    replicas: int
    why: str


@dataclass(frozen=True)
class Scene:
    """What one decision is made from."""

    policy: Policy
    demand: Demand
    engines: Engines
    memory: Memory
    now: float

    @property
    def known(self) -> bool:
        """Whether every gateway says what it holds."""
        return is_known(self.demand, self.now)

    @property
    def idle_seconds(self) -> float:
        """Since the last request was seen."""
        return self.now - (self.now if self.memory.active_at_seconds is None else self.memory.active_at_seconds)

    def is_idle_for(self, seconds: float | None) -> bool:
        """Whether there is no request, and was none for so long."""
        return self.known and not self.demand.total and seconds is not None and self.idle_seconds >= seconds


def is_known(demand: Demand, now: float) -> bool:
    """Whether there are reports, and no gateway stopped reporting."""
    return bool(demand.reports) and not demand.silent(now)
