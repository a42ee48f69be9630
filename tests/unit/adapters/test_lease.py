"""Leadership: one at a time, whoever is cut off, and given back at the end."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

from slm_operator.adapters.lease import Leadership, LeaseSettings
from slm_operator.errors import ClusterUnavailable, Conflict

DURATION = 0.5


class LeaseServer:
    """A Lease with the API server's compare-and-swap, and replicas that can be cut off from it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.cut: set[str] = set()
        self.reads = 0


class Client:
    """What one replica sees of it."""

    def __init__(self, server: LeaseServer, name: str) -> None:
        self._server = server
        self._name = name

    async def read(self, _path: str) -> dict[str, Any] | None:
        await self._travel()
        self._server.reads += 1
        return None if self._server.lease is None else {**self._server.lease}

    async def write(self, method: str, _path: str, body: Any) -> Any:
        await self._travel()
        server = self._server
        if method == "POST" and server.lease is not None:
            raise Conflict("exists")
        if method == "PUT" and server.lease is None:
            return None
        if method == "PUT" and body["metadata"].get("resourceVersion") != str(server.version):
            raise Conflict("changed")
        server.version += 1
        server.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(server.version)}}
        return server.lease

    async def _travel(self) -> None:
        await asyncio.sleep(random.uniform(0, 0.01))  # noqa: S311 - not for secrets
        if self._name in self._server.cut:
            await asyncio.sleep(0.05)
            raise ClusterUnavailable("cut off")


def replica(name: str, duration: float = DURATION) -> Leadership:
    return Leadership(LeaseSettings("n", "lease", name, duration))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def forever() -> None:
    await asyncio.Event().wait()


async def test_never_two_lead_while_the_network_comes_and_goes() -> None:
    server, generator = LeaseServer(), random.Random(7)  # noqa: S311 - not for secrets
    replicas = {name: replica(name) for name in ("a", "b", "c")}
    tasks = [asyncio.create_task(each.run(Client(server, name), forever)) for name, each in replicas.items()]  # type: ignore[arg-type]
    led: set[str] = set()
    end = time.monotonic() + 8
    next_cut = 0.0
    while time.monotonic() < end:
        leading = [name for name, each in replicas.items() if each.leads]
        assert len(leading) <= 1, f"{leading} lead at once"
        led.update(leading)
        if time.monotonic() > next_cut:
            server.cut = {name for name in replicas if generator.random() < 0.4}
            next_cut = time.monotonic() + generator.uniform(0.1, 1.2)
        await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(led) >= 2, "leadership never moved, so nothing was tried"


async def test_a_lease_that_is_given_back_is_taken_at_once() -> None:
    server = LeaseServer()
    long = 20.0
    first, second = replica("a", long), replica("b", long)
    acting = asyncio.Event()

    async def act() -> None:
        acting.set()
        await forever()

    one = asyncio.create_task(first.run(Client(server, "a"), forever))  # type: ignore[arg-type]
    await until(lambda: first.leads)
    two = asyncio.create_task(second.run(Client(server, "b"), act))  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    assert not acting.is_set()
    one.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await one
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""
    async with asyncio.timeout(long / 2):  # Not given back, it would be taken after the duration.
        await acting.wait()
    assert server.lease["spec"]["leaseTransitions"] == 2
    two.cancel()
    await asyncio.gather(two, return_exceptions=True)


async def test_acting_ends_with_the_right_to_write() -> None:
    server, one = LeaseServer(), replica("a")
    ended = asyncio.Event()

    async def act() -> None:
        try:
            await forever()
        finally:
            assert not one.leads
            ended.set()

    task = asyncio.create_task(one.run(Client(server, "a"), act))  # type: ignore[arg-type]
    await until(lambda: one.leads)
    server.cut = {"a"}
    async with asyncio.timeout(5):
        await ended.wait()
    server.cut = set()
    await until(lambda: one.leads)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_renewal_reads_only_what_another_may_have_written() -> None:
    server, one = LeaseServer(), replica("a")
    task = asyncio.create_task(one.run(Client(server, "a"), forever))  # type: ignore[arg-type]
    await until(lambda: server.version >= 4)
    assert server.reads == 1, "once, before it was taken"
    assert server.lease is not None
    server.version += 1  # Somebody labels it.
    server.lease = {**server.lease, "metadata": {**server.lease["metadata"], "resourceVersion": str(server.version)}}
    noticed = server.version
    await until(lambda: server.version >= noticed + 3)
    assert server.reads == 2, "again after the conflict, and not after that"
    server.lease = None  # Somebody deletes it.
    await until(lambda: server.lease is not None)
    assert one.leads
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
