"""Who may go to an engine now, and who waits: one queue per service, for a slot and for an engine alike."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from slm_operator.core.answers import Answers
from slm_operator.gateway.directory import Directory, Endpoint, Service
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal, held_too_long, no_such_model, not_served, queue_full
from slm_operator.gateway.tallies import StepTally
from slm_operator.gateway.tracks import Tracks

Demand = Callable[[str, int, int], None]
"""Told whenever a request must wait: the service's key, how many are in flight and how many wait."""
Gone = Callable[[Endpoint], None]
"""Told of each engine that takes no requests any more."""


@dataclass(eq=False, slots=True)
class _Waiter:
    prefix: str
    adapter: str
    size: int
    again: bool
    turn: "asyncio.Future[Endpoint]"


class Admission:
    """The engines of one service and the requests for them. It belongs to one event loop."""

    def __init__(self, service: Service, limits: Limits, demand: Demand, gone: Gone) -> None:
        self._gone = gone
        self.service: Service | None = None
        self._key = service.key
        self._limits = limits
        self._demand = demand
        self._endpoints: dict[str, Endpoint] = {}
        self._loads: dict[str, int] = {}
        self._leaving: dict[str, int] = {}
        # Answers under way of engines that take no more; they may be back before those have ended.
        self._cooling: dict[str, asyncio.TimerHandle] = {}
        self._waiting: deque[_Waiter] = deque()
        self._waiting_bytes = 0
        self._in_flight = 0
        self._updated, self._hearing = asyncio.Event(), 0
        self.begun = 0
        """Requests that came, ever."""
        self._tracks = Tracks()
        self.tally = StepTally()
        """What came of its requests while a canary is tried."""
        self.update(service)

    @property
    def in_flight(self) -> int:
        """Requests that engines work on."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot or for an engine."""
        return len(self._waiting)

    def update(self, service: Service | None) -> None:
        """The service is this now; None: it is gone, and nobody waits for it any longer."""
        before, self.service = self.service, service
        self._updated.set()
        for endpoint in set(before.endpoints if before else ()).difference(service.endpoints if service else ()):
            self._gone(endpoint)
        if service is None:
            while self._waiting:
                self._settle(self._waiting.popleft(), no_such_model(self._key))
            return
        self.tally.update(service.canary)
        if before is None or before.endpoints != service.endpoints:
            self._endpoints = {endpoint.id: endpoint for endpoint in service.endpoints}
            self._tracks.update(service.endpoints)
            loads = self._leaving | self._loads
            self._loads = {each: loads.pop(each, 0) for each in self._endpoints}
            self._leaving = {each: load for each, load in loads.items() if load}
            self._warm_all()
        for waiter in list(self._waiting):
            if refusal := self._refusal(waiter.adapter):
                self._waiting.remove(waiter)
                self._settle(waiter, refusal)
        self._let_in()

    def try_take(self, prefix: str, adapter: str = "", *, again: bool = False) -> Endpoint | None:
        """An engine for a request, at once, or None when it must wait its turn. Give it back with ``release``.

        One that picks an adapter goes to an engine that has loaded it.
        """
        # Whoever waits for another adapter could not take what this one may: it would have.
        first = any(each.adapter in ("", adapter) for each in self._waiting)
        endpoint = None if first else self._pick(prefix, adapter, again=again)
        self.begun += endpoint is not None and not again
        return endpoint

    async def take(
        self, prefix: str, size_bytes: int, seconds: float, adapter: str = "", *, again: bool = False
    ) -> Endpoint:
        """An engine in its turn; raises Refusal when too many wait, the time is over or none will come.

        ``again``: the request had its turn, but its engine could not take it.
        """
        if not again and (
            len(self._waiting) + self._hearing >= self._limits.queue_length
            or self._waiting_bytes + size_bytes > self._limits.queue_bytes
        ):
            raise queue_full(self._limits)
        if self._is_idle():
            await self._hear_more(size_bytes)
        if refusal := self._refusal(adapter):
            raise refusal
        self.begun += not again
        waiter = _Waiter(prefix, adapter, size_bytes, again, asyncio.get_running_loop().create_future())
        (self._waiting.appendleft if again else self._waiting.append)(waiter)
        self._waiting_bytes += size_bytes
        self._demand(self._key, self._in_flight, len(self._waiting))
        self._let_in()
        try:
            async with asyncio.timeout(seconds):
                return await waiter.turn
        except TimeoutError:
            self._leave(waiter)
            raise held_too_long(self._key, self._limits) from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def release(self, endpoint: Endpoint) -> None:
        """A request has left its engine."""
        self._in_flight -= 1
        loads = self._loads if endpoint.id in self._loads else self._leaving
        loads[endpoint.id] -= 1
        if loads is self._leaving and not loads[endpoint.id]:
            del loads[endpoint.id]
        if self._waiting:
            self._let_in()

    def has(self, endpoint: Endpoint) -> bool:
        """Whether the engine takes requests now."""
        found = self._endpoints.get(endpoint.id) if self.service is not None else None
        return found is endpoint or found == endpoint

    def cool(self, endpoint: Endpoint) -> None:
        """An engine could not take a request: give it none for a moment."""
        if endpoint.id not in self._cooling:
            loop = asyncio.get_running_loop()
            self._cooling[endpoint.id] = loop.call_later(self._limits.cooling_seconds, self._warm, endpoint.id)

    def close(self) -> None:
        """End the timers."""
        for timer in self._cooling.values():
            timer.cancel()

    async def _hear_more(self, size_bytes: int) -> None:
        """Wait for word that engines will come: what was changed a moment ago may not be known here yet."""
        self._hearing += 1
        self._waiting_bytes += size_bytes
        try:
            async with asyncio.timeout(self._limits.notice_seconds):
                while self._is_idle():
                    self._updated.clear()
                    await self._updated.wait()
        except TimeoutError:
            return
        finally:
            self._hearing -= 1
            self._waiting_bytes -= size_bytes

    def _is_idle(self) -> bool:
        """Whether there is no engine, and none will come."""
        return self.service is not None and bool(self.service.no_engine) and not self.service.endpoints

    def _refusal(self, adapter: str) -> Refusal | None:
        """Why waiting is of no use: the service or its adapter is gone, or no engine will come."""
        service = self.service
        if service is None:
            return no_such_model(self._key)
        if adapter and adapter not in service.adapters and adapter not in service.to_come:
            return no_such_model(f"{self._key}:{adapter}")
        return not_served(self._key, service.no_engine) if self._is_idle() else None

    def _warm(self, name: str) -> None:
        del self._cooling[name]
        self._let_in()

    def _warm_all(self) -> None:
        """Look at all anew: an engine that came back under its old name need not be waited for."""
        for timer in self._cooling.values():
            timer.cancel()
        self._cooling.clear()

    def _pick(self, prefix: str, adapter: str, *, again: bool) -> Endpoint | None:
        if self.service is None:
            return None
        loads = self._loads
        if self._cooling:
            loads = {name: load for name, load in loads.items() if name not in self._cooling}
        able = None
        if adapter:
            able = frozenset(name for name, each in self._endpoints.items() if adapter in each.adapters)
            loads = {name: load for name, load in loads.items() if name in able}
        percent = self.service.canary.percent if self.service.canary else 0
        name = self._tracks.choose(prefix, loads, percent, again=again, able=able)
        if name is None:
            return None
        self._loads[name] += 1
        self._in_flight += 1
        return self._endpoints[name]

    def _let_in(self) -> None:
        at, full = 0, set[str]()
        while at < len(self._waiting):
            waiter = self._waiting[at]
            if waiter.turn.cancelled():
                self._leave(waiter)
            elif waiter.adapter in full:
                at += 1
            elif endpoint := self._pick(waiter.prefix, waiter.adapter, again=waiter.again):
                del self._waiting[at]
                self._settle(waiter, endpoint)
            elif waiter.adapter:
                full.add(waiter.adapter)  # In the way of none but those that need the same engines.
            else:
                return  # Any engine would do, and none has room.

    def _settle(self, waiter: _Waiter, outcome: Endpoint | Exception) -> None:
        self._waiting_bytes -= waiter.size
        if waiter.turn.cancelled():
            return  # Whoever left is in the queue until the event loop comes round to its task.
        if isinstance(outcome, Exception):
            waiter.turn.set_exception(outcome)
        else:
            waiter.turn.set_result(outcome)

    def _leave(self, waiter: _Waiter) -> None:
        """Whoever waited has gone; its turn may have come in the same moment."""
        if waiter.turn.done() and not waiter.turn.cancelled():
            if waiter.turn.exception() is None:
                self.release(waiter.turn.result())
            return
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiter)
            self._waiting_bytes -= waiter.size


class Admissions:
    """Every service's admission, kept up with the directory."""

    def __init__(self, directory: Directory, limits: Limits, demand: Demand, gone: Gone) -> None:
        self._gone = gone
        self._directory = directory
        self._limits = limits
        self._demand = demand
        self._by_key: dict[str, Admission] = {}
        directory.subscribe(self._changed)

    def of(self, service: Service) -> Admission:
        """The service's own; raises Refusal when it has gone since it was looked up."""
        found = self._by_key.get(service.key)
        if found is None:
            # It was looked up before its caller was reviewed, and what changed meanwhile was told to nobody.
            now = self._directory.get(service.key)
            if now is None:
                raise no_such_model(service.key)
            found = self._by_key[service.key] = Admission(now, self._limits, self._demand, self._gone)
        return found

    def loads(self) -> dict[str, tuple[int, int, int]]:
        """In flight, waiting, and how many ever came, by service."""
        return {key: (each.in_flight, each.waiting, each.begun) for key, each in self._by_key.items()}

    def observe(self, record: Record) -> None:
        """A request has ended; a ``record.Observer``."""
        if record.service is not None and (found := self._by_key.get(record.service.key)):
            found.tally.observe(record)

    def answers(self) -> dict[str, Answers]:
        """What came of requests in steps of canaries, by service."""
        found = ((key, each.tally.answers) for key, each in self._by_key.items())
        return {key: answers for key, answers in found if answers is not None}

    def close(self) -> None:
        """End all timers."""
        for each in self._by_key.values():
            each.close()

    def _changed(self, key: str) -> None:
        if key in self._by_key:
            service = self._directory.get(key)
            self._by_key[key].update(service)
            if service is None:
                self._by_key.pop(key).close()
