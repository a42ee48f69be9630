"""What an autoscaling decision is made from, and what it says."""

import math
from dataclasses import dataclass
from enum import StrEnum

TARGET_UTILIZATION = 0.7
"""Share of an engine's slots that is filled on average; Knative's ``container-concurrency-target-percentage``."""


class Tier(StrEnum):
    """How ready a service is to answer."""

    HOT = "hot"
    ASLEEP = "asleep"
    """Processes without weights."""
    ZERO = "zero"


@dataclass(frozen=True)
class Policy:
    """What the spec asks for; raises ValueError with what to change."""

    min_replicas: int
    max_replicas: int
    slots: int
    """Requests one engine answers at the same time."""
    target_in_flight: float | None = None
    """Requests per engine to aim at. None: 70 % of the slots, at least 1."""
    scale_down_delay_seconds: float = 60.0
    """Engines stay that were needed within it; those that bursts need again and again stay longer."""
    sleep_after_seconds: float | None = None
    """None: never."""
    zero_after_seconds: float | None = 300.0
    """None: never."""
    can_sleep: bool = False
    """Whether the engine can drop its weights and keep its process."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            given = f"spec.autoscaling.minReplicas and maxReplicas are {self.min_replicas} and {self.max_replicas}"
            raise ValueError(f"{given}: set 0 <= minReplicas <= maxReplicas, at least 1")
        if self.slots < 1:
            raise ValueError(f"spec.parallel is {self.slots}: an engine needs at least 1 slot")
        if self.target_in_flight is not None and not self.target_in_flight > 0:
            raise ValueError(f"spec.autoscaling.targetInFlight is {self.target_in_flight:g}: set more than 0")
        delays = {
            "scaleDownDelaySeconds": self.scale_down_delay_seconds,
            "sleepAfterSeconds": self.sleep_after_seconds,
            "zeroAfterSeconds": self.zero_after_seconds,
        }
        for name, seconds in delays.items():
            if seconds is not None and not seconds >= 0:
                raise ValueError(f"spec.autoscaling.{name} is {seconds:g}: set 0 or more")

    @property
    def target(self) -> float:
        """Requests per engine to aim at."""
        return self.target_in_flight or max(1.0, TARGET_UTILIZATION * self.slots)

    def engines_for(self, requests: float) -> int:
        """Engines that ``requests`` need at the target."""
        return math.ceil(round(requests / self.target, 9))


@dataclass(frozen=True)
class Engines:
    """What there is."""

    wanted: int
    ready: int
    asleep: bool = False


@dataclass(frozen=True)
class Memory:
    """What of earlier decisions matters for the next; empty after a restart, which only delays going down."""

    active_at_seconds: float | None = None
    """When the last request was seen, or when observation began."""
    up_at_seconds: float = -math.inf
    down_at_seconds: float = -math.inf
    panic_at_seconds: float = -math.inf
    """When the panic threshold was last exceeded."""
    panic_replicas: int = 0
    """The most engines that this panic needed; 0: no panic."""
    needs: tuple[tuple[float, int], ...] = ()
    """(when last, engines needed): the highest of each bucket of the delay."""
    habit: tuple[tuple[float, int], ...] = ()
    """As ``needs``, over the longer time in which recurring bursts show."""


@dataclass(frozen=True)
class Decision:
    """What to do, why, and when to decide again."""

    replicas: int
    tier: Tier
    reason: str
    """A sentence with its numbers, for the user's status."""
    look_again_seconds: float | None
    """Decide again after so long even without a report; None: only a report can change anything."""
    memory: Memory
