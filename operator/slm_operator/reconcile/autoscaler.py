"""Remembers what gateways report, and decides how many engines each service has."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.core.autoscale import decide
from slm_operator.core.autoscale_policy import Engines, Memory, Policy
from slm_operator.core.demand import Demand, Sample
from slm_operator.core.scaling import Scaling
from slm_operator.ports import ObjectKey

KIND = "InferenceService"


@dataclass(frozen=True)
class Load:
    """What one gateway has of one service."""

    in_flight: int = 0
    queued: int = 0
    begun: int = 0
    """Requests that came since the gateway's last report."""


@dataclass
class _Known:
    """One service."""

    demand: Demand = field(default_factory=Demand)
    memory: Memory = field(default_factory=Memory)
    policy: Policy | None = None
    engines: Engines = field(default_factory=lambda: Engines(0, 0))


class Autoscaler:
    """One per process; it starts with no memory, which only delays going down."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._services: dict[ObjectKey, _Known] = {}
        self._gateways: dict[str, float] = {}
        # When each was last heard of: what it does not mention is as it was.
        self.wake: Callable[[ObjectKey], None] = lambda _: None
        """Called with each service whose engines have become too few or too many."""

    def report(self, gateway: str, loads: Mapping[ObjectKey, Load]) -> None:
        """A gateway tells of all services whose load has changed since its last report; none is a sign of life."""
        now = self._gateways[gateway] = self._clock()
        for key, load in loads.items():
            known = self._services.setdefault(key, _Known())
            known.demand = known.demand.add(Sample(gateway, now, load.in_flight, load.queued, load.begun))
            if known.policy is None:
                if known.demand.total == 0:
                    del self._services[key]  # Nobody here decides about it: a standby, or the service is gone.
                continue
            decision = decide(known.policy, self._heard(known), known.engines, known.memory, now)
            if decision.replicas != known.engines.wanted:
                self.wake(key)

    def lose(self, gateway: str) -> None:
        """A gateway has ended, and with it the requests that it held."""
        self._gateways.pop(gateway, None)

    def forget(self, key: ObjectKey) -> None:
        """The service is gone."""
        self._services.pop(key, None)

    def decide(self, service: InferenceService, wanted: int | None, ready: int) -> Scaling:
        """How many engines a service has, of which ``wanted`` are asked for now (None: this is its first look)."""
        spec = service.spec.autoscaling
        assert spec is not None  # noqa: S101 (for the type checker)
        known = self._services.setdefault(ObjectKey(KIND, service.metadata.namespace, service.metadata.name), _Known())
        known.policy = Policy(
            spec.min_replicas,
            spec.max_replicas,
            service.spec.parallel,
            spec.target_in_flight or None,
            spec.scale_down_delay_seconds,
            zero_after_seconds=spec.zero_after_seconds,
        )
        # A new service starts one engine, which shows whether it works.
        known.engines = Engines(max(1, spec.min_replicas) if wanted is None else wanted, ready)
        decision = decide(known.policy, self._heard(known), known.engines, known.memory, self._clock())
        known.memory, known.engines = decision.memory, Engines(decision.replicas, ready)
        return Scaling(decision.replicas, decision.reason.partition(": ")[2], decision.look_again_seconds or math.inf)

    def _heard(self, known: _Known) -> Demand:
        """The demand, up to the last word of each gateway that lives."""
        demand = known.demand.keep(self._gateways)
        for gateway, heard in self._gateways.items():
            samples = demand.reports.get(gateway, ())
            if not samples or samples[-1].at_seconds < heard:
                last = samples[-1] if samples else Sample(gateway, heard)
                demand = demand.add(Sample(gateway, heard, last.in_flight, last.queued, 0))
        known.demand = demand
        return demand
