"""HTTP probes with the meaning of a kubelet's: startup first, then readiness and liveness side by side."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EAGER_SECONDS = 0.05
"""Period before the first success: a wake-up from zero waits for it, and loopback requests cost nothing."""
HOST = "127.0.0.1"


class ProbeFailed(Exception):
    """A startup or liveness probe failed as often as its threshold allows."""


@dataclass(frozen=True)
class Probe:
    """One ``httpGet`` probe with Kubernetes' defaults."""

    name: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...]
    initial_delay_seconds: float
    period_seconds: float
    timeout_seconds: float
    failure_threshold: int
    success_threshold: int

    @staticmethod
    def parse(name: str, container: dict[str, Any], port: int) -> "Probe | None":
        """The container's probe of that name (``startup``, ``readiness``, ``liveness``); ``port`` replaces a name."""
        spec = container.get(f"{name}Probe")
        if not spec or "httpGet" not in spec:
            return None
        get = spec["httpGet"]
        declared = {each.get("containerPort") for each in container.get("ports", [])}
        wanted = get.get("port")
        return Probe(
            name=name,
            port=wanted if isinstance(wanted, int) and wanted not in declared else port,
            path=get.get("path", "/"),
            headers=tuple((each["name"], each["value"]) for each in get.get("httpHeaders", [])),
            initial_delay_seconds=spec.get("initialDelaySeconds", 0),
            period_seconds=spec.get("periodSeconds", 10),
            timeout_seconds=spec.get("timeoutSeconds", 1),
            failure_threshold=spec.get("failureThreshold", 3),
            success_threshold=spec.get("successThreshold", 1),
        )

    async def check(self) -> str:
        """Why the probe fails now, or an empty string: any status from 200 to 399 is a success."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                status = await self._status()
        except TimeoutError:
            return f"{self.name} probe failed: no answer within {self.timeout_seconds:g} s."
        except (OSError, ValueError, IndexError) as error:
            return f"{self.name} probe failed: {error}."
        return "" if 200 <= status < 400 else f"{self.name} probe failed: HTTP status {status}."  # noqa: PLR2004

    async def _status(self) -> int:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            lines = [f"GET {self.path} HTTP/1.1", f"Host: {HOST}:{self.port}", "Connection: close", "Accept: */*"]
            lines += [f"{name}: {value}" for name, value in self.headers]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def watch(container: dict[str, Any], port: int, report: Callable[[bool], None]) -> None:
    """Probe for as long as the process runs; ``report(ready)`` tells changes.

    Raises ProbeFailed when the process has to be restarted.
    """
    startup, readiness, liveness = (Probe.parse(name, container, port) for name in ("startup", "readiness", "liveness"))
    if startup:
        await _wait_started(startup)
    if readiness is None:
        report(True)  # noqa: FBT003
    async with asyncio.TaskGroup() as tasks:
        if readiness:
            tasks.create_task(_watch_ready(readiness, report))
        if liveness:
            tasks.create_task(_watch_live(liveness))


async def _wait_started(probe: Probe) -> None:
    """Return at the first success; the threshold counts periods, not the more frequent eager checks."""
    await asyncio.sleep(probe.initial_delay_seconds)
    deadline = time.monotonic() + probe.period_seconds * probe.failure_threshold
    while problem := await probe.check():
        if time.monotonic() >= deadline:
            raise ProbeFailed(problem)
        await asyncio.sleep(min(EAGER_SECONDS, probe.period_seconds))


async def _watch_ready(probe: Probe, report: Callable[[bool], None]) -> None:
    await asyncio.sleep(probe.initial_delay_seconds)
    ready, seen, streak = False, False, 0
    while True:
        succeeded = not await probe.check()
        streak = streak + 1 if succeeded != ready else 0
        if streak >= (probe.success_threshold if succeeded else probe.failure_threshold):
            ready, seen, streak = succeeded, True, 0
            report(ready)
        await asyncio.sleep(probe.period_seconds if seen else min(EAGER_SECONDS, probe.period_seconds))


async def _watch_live(probe: Probe) -> None:
    await asyncio.sleep(probe.initial_delay_seconds)
    failures = 0
    while True:
        problem = await probe.check()
        failures = failures + 1 if problem else 0
        if failures >= probe.failure_threshold:
            raise ProbeFailed(problem)
        await asyncio.sleep(probe.period_seconds)
