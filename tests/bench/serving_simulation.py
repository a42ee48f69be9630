"""Engines, a gateway that holds requests, and whoever decides how many engines there are: events instead of a clock."""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.bench.serving_day import Request

SLOTS = 4
MAX_REPLICAS = 8
START_SECONDS = 25.0
"""From the decision to an engine that answers: scheduling, the process, and 2 to 5 GB of weights."""
TAIL_SECONDS = 600.0
"""Engines are paid for so long after the last request, so that going down late costs what it costs."""
QUEUE_LENGTH = 1000
"""Requests that the gateway holds, as its own limit is; the next one gets 429."""
HOLD_SECONDS = 300.0
"""How long it holds one before it gives 503."""


class Scaler(Protocol):
    """Who decides."""

    min_replicas: int

    def due(self, view: "View", now: float) -> float:
        """When to ask next, from ``now``; asked again after every decision and every arrival."""
        ...

    def decide(self, view: "View", now: float) -> int:
        """Engines wanted."""
        ...


@dataclass
class View:
    """What a scaler can see."""

    in_flight: int = 0
    queued: int = 0
    wanted: int = 0
    ready: int = 0
    arrived: int = 0
    """Requests held or answered so far."""

    @property
    def total(self) -> int:
        """Requests that are there."""
        return self.in_flight + self.queued


@dataclass
class Engine:
    """One engine."""

    begun: float
    ready: bool = False
    leaving: bool = False
    busy: int = 0


@dataclass
class Outcome:
    """What a day came to."""

    replica_seconds: float = 0.0
    queue_seconds: list[float] = field(default_factory=list)
    """Of every request that was answered."""
    rejected: int = 0
    starts: int = 0
    from_zero: int = 0
    series: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, engines that exist, requests that are there), at every change of the engines."""


class Simulation:
    """One day under one scaler."""

    def __init__(self, requests: Sequence[Request], scaler: Scaler) -> None:
        self._scaler = scaler
        self._engines: list[Engine] = []
        self._queue: deque[tuple[float, Request]] = deque()
        self._events: list[tuple[float, int, str, object]] = []
        self._number = 0
        self._asked: float | None = None
        self.view = View()
        self.outcome = Outcome()
        for request in requests:
            self._at(request.at_seconds, "arrive", request)
        self._end = max((request.at_seconds for request in requests), default=0.0)

    def run(self) -> Outcome:
        """To the end of the last request's day, and until everything held is answered or refused."""
        self._scale(self._scaler.min_replicas, 0.0)
        self._ask(0.0)
        while self._events:
            now, _, kind, what = heapq.heappop(self._events)
            if kind == "decide" and now > self._end + TAIL_SECONDS and not self.view.total:
                break
            getattr(self, f"_on_{kind}")(what, now)
        self.outcome.replica_seconds += sum(now - engine.begun for engine in self._engines)
        return self.outcome

    def _at(self, when: float, kind: str, what: object = None) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, kind, what))

    def _on_arrive(self, request: Request, now: float) -> None:
        if self.view.queued >= QUEUE_LENGTH:
            self.outcome.rejected += 1
            return
        self._queue.append((now, request))
        self.view.queued += 1
        self.view.arrived += 1
        self._at(now + HOLD_SECONDS, "expire")
        self._dispatch(now)
        self._ask(now)

    def _on_expire(self, _: object, now: float) -> None:
        while self._queue and now - self._queue[0][0] >= HOLD_SECONDS:
            self._queue.popleft()
            self.view.queued -= 1
            self.outcome.rejected += 1

    def _on_ready(self, engine: Engine, now: float) -> None:
        if engine in self._engines:
            engine.ready = True
            self.view.ready += 1
            self._dispatch(now)

    def _on_answer(self, engine: Engine, now: float) -> None:
        engine.busy -= 1
        self.view.in_flight -= 1
        if engine.leaving and not engine.busy:
            self.outcome.replica_seconds += now - engine.begun
        self._dispatch(now)

    def _on_decide(self, _: object, now: float) -> None:
        if self._asked != now:
            return
        self._asked = None
        self._scale(self._scaler.decide(self.view, now), now)
        self._ask(now)

    def _ask(self, now: float) -> None:
        due = self._scaler.due(self.view, now)
        if due < float("inf") and (self._asked is None or due < self._asked):
            self._asked = due
            self._at(due, "decide")

    def _dispatch(self, now: float) -> None:
        while self._queue:
            free = [engine for engine in self._engines if engine.ready and engine.busy < SLOTS]
            if not free:
                return
            engine = min(free, key=lambda each: each.busy)
            arrived, request = self._queue.popleft()
            engine.busy += 1
            self.view.queued -= 1
            self.view.in_flight += 1
            self.outcome.queue_seconds.append(now - arrived)
            self._at(now + request.service_seconds, "answer", engine)

    def _scale(self, wanted: int, now: float) -> None:
        if wanted == self.view.wanted:
            return
        self.outcome.from_zero += not self.view.wanted and now > 0
        for _ in range(wanted - self.view.wanted):
            engine = Engine(now)
            self._engines.append(engine)
            self.outcome.starts += 1
            self._at(now + START_SECONDS, "ready", engine)
        for _ in range(self.view.wanted - wanted):
            # As a ReplicaSet does: those that are not ready go first; and then, as our deletion costs say, idle ones.
            self._remove(min(self._engines, key=lambda engine: (engine.ready, engine.busy, -engine.begun)), now)
        self.view.wanted = wanted
        self.outcome.series.append((now, wanted, self.view.total))

    def _remove(self, engine: Engine, now: float) -> None:
        """It answers what it has and takes nothing new."""
        self._engines.remove(engine)
        self.view.ready -= engine.ready
        engine.leaving = True
        if not engine.busy:
            self.outcome.replica_seconds += now - engine.begun
