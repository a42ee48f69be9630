"""Who decides in the simulation: the operator's autoscaler, and what Kubernetes and KEDA do by default."""

import math
from collections import deque

from slm_operator.core.autoscale import decide
from slm_operator.core.autoscale_policy import Engines, Memory, Policy
from slm_operator.core.demand import Demand, Sample
from tests.bench.serving_simulation import MAX_REPLICAS, SLOTS, View

POLICY = Policy(0, MAX_REPLICAS, SLOTS)
TARGET = POLICY.target
"""Requests per engine: the same for all."""
PATCH_SECONDS = 0.2
"""From the gateway's report to the patch."""
REPORT_SECONDS = 1.0


class Ours:
    """Gateways report once a second, and the first request to a service without engines at once."""

    min_replicas = 0

    def __init__(self, policy: Policy = POLICY) -> None:
        self._policy = policy
        self._demand, self._memory = Demand(), Memory()
        self._last, self._arrived = 0.0, 0
        self.reasons: list[str] = []

    def due(self, view: View, now: float) -> float:
        """The next report, or the wake-up; nothing at zero."""
        if view.wanted == 0:
            return now + PATCH_SECONDS if view.total else math.inf
        return max(now, self._last + REPORT_SECONDS)

    def decide(self, view: View, now: float) -> int:
        """The autoscaler's decision."""
        self._last = now
        begun, self._arrived = view.arrived - self._arrived, view.arrived
        self._demand = self._demand.add(Sample("gateway", now, view.in_flight, view.queued, begun))
        decision = decide(self._policy, self._demand, Engines(view.wanted, view.ready), self._memory, now)
        self._memory = decision.memory
        if decision.replicas != view.wanted:
            self.reasons.append(decision.reason)
        return decision.replicas


class HpaLike:
    """HPA's defaults on requests per replica (kubernetes/kubernetes, ``pkg/controller/podautoscaler``): every 15 s,
    tolerance 10 %, up by 100 % or 4 a period, down to the highest of 300 s. It cannot reach zero."""

    min_replicas = 1
    _sync_seconds = 15.0
    _stabilization_seconds = 300.0
    _tolerance = 0.1

    def __init__(self) -> None:
        self._next = 0.0
        self._recommended: deque[tuple[float, int]] = deque()

    def due(self, view: View, now: float) -> float:  # noqa: ARG002 - of the protocol
        """The next multiple of its period."""
        return max(now, self._next)

    def decide(self, view: View, now: float) -> int:
        """Its recommendation, stabilized."""
        self._next = now + self._sync_seconds
        return self._recommend(view, now)

    def _recommend(self, view: View, now: float) -> int:
        ratio = view.total / (TARGET * view.wanted)
        desired = view.wanted if abs(ratio - 1) <= self._tolerance else math.ceil(view.total / TARGET)
        self._recommended.append((now, desired))
        while now - self._recommended[0][0] > self._stabilization_seconds:
            self._recommended.popleft()
        if desired < view.wanted:
            desired = min(view.wanted, max(each for _, each in self._recommended))
        most = max(view.wanted + 4, 2 * view.wanted)
        return max(1, min(desired, most, MAX_REPLICAS))


class KedaLike(HpaLike):
    """KEDA's defaults (keda.sh, ScaledObject): an HPA between 1 and the maximum. KEDA itself looks every 30 s, starts
    the first replica, and takes the last one 300 s after it last saw a request."""

    min_replicas = 0
    _poll_seconds = 30.0
    _cooldown_seconds = 300.0

    def __init__(self) -> None:
        super().__init__()
        self._poll = 0.0
        self._active = -math.inf

    def due(self, view: View, now: float) -> float:
        """The next poll, and the next sync while there is a replica."""
        return max(now, min(self._poll, self._next) if view.wanted else self._poll)

    def decide(self, view: View, now: float) -> int:
        """KEDA's own decision where it is due, and otherwise its HPA's."""
        if now >= self._poll:
            self._poll = now + self._poll_seconds
            self._active = now if view.total else self._active
            if view.wanted == 0:
                self._next = now
                self._recommended.clear()
                return 1 if view.total else 0
            if now - self._active >= self._cooldown_seconds:
                return 0
        if view.wanted and now >= self._next:
            return super().decide(view, now)
        return view.wanted


class KedaHttpLike(KedaLike):
    """KEDA's HTTP add-on: its interceptors are asked every 500 ms, and a request at zero is pushed to KEDA."""

    _push_seconds = 0.5

    def due(self, view: View, now: float) -> float:
        """As KEDA, but a request at zero is seen at once."""
        if view.wanted == 0 and view.total:
            self._poll = min(self._poll, now + self._push_seconds)
        return super().due(view, now)
