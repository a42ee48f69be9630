"""Remembers what gateways report, and decides how many engines each service has."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.core.answers import Answers
from slm_operator.core.autoscale import decide
from slm_operator.core.autoscale_policy import Decision, Engines, Memory, Policy
from slm_operator.core.demand import Demand, Sample
from slm_operator.core.scaling import Scaling
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.canary_answers import CanaryAnswers

KIND = "InferenceService"
LEARNING_SECONDS = 15.0
"""Nothing is made smaller for so long after this process began to lead: a gateway may take as long to find it."""


def _wake_nothing(_key: ObjectKey) -> None:
    """Nobody here decides."""


@dataclass(frozen=True)
class Load:
    """What one gateway has of one service."""

    in_flight: int = 0
    queued: int = 0
    begun: int = 0
    """Requests that came since the gateway's last report."""
    answers: Answers | None = None
    """Of a canary's step, where they have changed."""


@dataclass
class _Known:
    """One service."""

    demand: Demand = field(default_factory=Demand)
    memory: Memory = field(default_factory=Memory)
    policy: Policy | None = None
    engines: Engines = field(default_factory=lambda: Engines(0, 0))

    def holds(self, gateway: str) -> bool:
        """Whether that gateway has requests for it, by its latest report."""
        samples = self.demand.reports.get(gateway)
        return bool(samples and samples[-1].total)


class Autoscaler:
    """One per process. Reports are heard always; decisions are made, and remembered, only while this process leads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._services: dict[ObjectKey, _Known] = {}
        self._heard_at: dict[str, float] = {}
        # By gateway: what it does not mention is as it was.
        self._newest: dict[str, Hearing] = {}
        self._leads_since: float | None = None
        self.canaries = CanaryAnswers()
        """What gateways tell of canaries."""
        self.wake: Callable[[ObjectKey], None] = _wake_nothing
        """Called with each service whose engines have become too few or too many, or whose canary failed a request."""

    def hear(self, gateway: str) -> "Hearing":
        """A gateway has connected, perhaps again."""
        hearing = self._newest[gateway] = Hearing(self, gateway)
        return hearing

    def is_newest(self, hearing: "Hearing") -> bool:
        """Whether the gateway has not connected again, nor was given up."""
        return self._newest.get(hearing.gateway) is hearing

    def report(self, gateway: str, loads: Mapping[ObjectKey, Load], *, whole: bool = False) -> None:
        """A gateway tells of all services whose load has changed since its last report; none is a sign of life.

        ``whole``: it tells of all for which it has requests, so that others have none.
        """
        now = self._heard_at[gateway] = self._clock()
        if whole:
            loads = {**{key: Load() for key, known in self._services.items() if known.holds(gateway)}, **loads}
        for key, load in loads.items():
            if load.answers is not None and self.canaries.hear(gateway, key, load.answers):
                self.wake(key)
            known = self._services.setdefault(key, _Known())
            known.demand = known.demand.add(Sample(gateway, now, load.in_flight, load.queued, load.begun))
            if known.policy is None:
                if known.demand.total == 0:
                    del self._services[key]  # Nobody here decides about it: a standby, or the service is gone.
            elif self._decide(known, known.policy, now).replicas != known.engines.wanted:
                self.wake(key)

    def lose(self, gateway: str) -> None:
        """A gateway has ended, and with it the requests that it held."""
        self._heard_at.pop(gateway, None)
        self._newest.pop(gateway, None)
        self.canaries.lose(gateway)

    def forget(self, key: ObjectKey) -> None:
        """The service is gone."""
        self._services.pop(key, None)
        self.canaries.forget(key)

    def stand_by(self) -> None:
        """Another process leads from now on: all but demand is its business, and old when this one leads again."""
        waiting = {key: known.demand for key, known in self._services.items() if known.demand.total}
        self._services = {key: _Known(demand) for key, demand in waiting.items()}
        self._leads_since = None
        self.wake = _wake_nothing

    def decide(self, service: InferenceService, wanted: int | None, ready: int) -> Scaling:
        """How many engines a service has, of which ``wanted`` are asked for now (None: this is its first look)."""
        spec = service.spec.autoscaling
        assert spec is not None  # noqa: S101 (for the type checker)
        known = self._services.setdefault(ObjectKey(KIND, service.metadata.namespace, service.metadata.name), _Known())
        now = self._clock()
        if self._leads_since is None:
            self._leads_since = now
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
        decision = self._decide(known, known.policy, now)
        known.memory, known.engines = decision.memory, Engines(decision.replicas, ready)
        return Scaling(decision.replicas, decision.reason.partition(": ")[2], decision.look_again_seconds or math.inf)

    def _decide(self, known: _Known, policy: Policy, now: float) -> Decision:
        """The decision, unless it is to have fewer engines before every gateway can have been heard."""
        decision = decide(policy, self._heard(known), known.engines, known.memory, now)
        rest = LEARNING_SECONDS - (now - (self._leads_since or now))
        least = min(known.engines.wanted, policy.max_replicas)
        if decision.replicas >= least or rest <= 0:
            return decision
        return replace(
            decision,
            replicas=least,
            reason=f"as before: not every gateway may have been heard in the first {LEARNING_SECONDS:g} s.",
            look_again_seconds=rest,
            memory=replace(decision.memory, down_at_seconds=known.memory.down_at_seconds),
        )

    def _heard(self, known: _Known) -> Demand:
        """The demand, up to the last word of each gateway that lives."""
        demand = known.demand.keep(self._heard_at)
        for gateway, heard in self._heard_at.items():
            samples = demand.reports.get(gateway, ())
            if not samples or samples[-1].at_seconds < heard:
                last = samples[-1] if samples else Sample(gateway, heard)
                demand = demand.add(Sample(gateway, heard, last.in_flight, last.queued, 0))
        known.demand = demand
        return demand


class Hearing:
    """One connection of a gateway. Of two of the same gateway only the newer counts."""

    def __init__(self, autoscaler: Autoscaler, gateway: str) -> None:
        self.gateway = gateway
        self._autoscaler = autoscaler
        self._begun = False

    def report(self, loads: Mapping[ObjectKey, Load]) -> bool:
        """The next report, of which the first is whole; False: it comes too late, the gateway has connected again."""
        if not self._autoscaler.is_newest(self):
            return False
        self._autoscaler.report(self.gateway, loads, whole=not self._begun)
        self._begun = True
        return True

    def end(self) -> None:
        """The gateway has ended, unless it has connected again."""
        if self._autoscaler.is_newest(self):
            self._autoscaler.lose(self.gateway)
