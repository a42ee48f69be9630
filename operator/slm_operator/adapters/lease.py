"""Leadership by a Lease: one replica acts, and knows for how long it still may.

Times are measured on one's own monotonic clock only, from the moment a record was *seen*: clocks of different machines
are never compared. (``kubernetes.aio.leaderelection`` reads wall clocks, never gives a Lease back, and does not tell
until when its holder may write.)
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.errors import Conflict, SlmError
from slm_operator.ports import Manifest

log = logging.getLogger(__name__)

RENEWALS = 5
"""A holder renews this often within the duration, a rival looks twice as often."""
ATTEMPT_SHARE = 1 / 3
"""Share of the duration that one attempt may take: a slow answer is not a lost Lease."""
WRITE_SHARE = 2 / 3
"""Share of the duration in which a holder may write after its last renewal: what is then still under way has the rest
of the time to arrive before a rival acts."""


@dataclass(frozen=True)
class LeaseSettings:
    """Which Lease, and how long it holds."""

    namespace: str
    name: str
    identity: str
    duration_seconds: float


class Leadership:
    """Takes a Lease, keeps it, and is the fence of all writes."""

    def __init__(self, settings: LeaseSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._valid_until = 0.0
        self._seen: Manifest | None = None
        self._seen_at = 0.0
        self._own: Manifest | None = None
        """The Lease as this replica wrote it last; None when it was, or may have been, written by another since."""

    @property
    def identity(self) -> str:
        """Name of this replica in the Lease."""
        return self._settings.identity

    @property
    def leads(self) -> bool:
        """Whether this replica may write now."""
        return self.remaining_seconds() > 0

    def remaining_seconds(self) -> float:
        """How long this replica may still write; 0 or less when it may not."""
        return self._valid_until - self._monotonic()

    async def run(self, client: KubeClient, act: Callable[[], Awaitable[Any]]) -> None:
        """Wait for the Lease, ``act`` while it is held, and start over when it is lost; gives it back when cancelled.

        ``client`` must be one that no fence holds up.
        """
        try:
            while True:
                await self._acquire(client)
                log.info("leading", extra={"lease": self._settings.name, "identity": self._settings.identity})
                task = asyncio.ensure_future(act())
                try:
                    await self._hold(client, task)
                finally:
                    # Whoever goes on writing after this moment is stopped by the fence.
                    self._valid_until = 0.0
                    task.cancel()
                    await asyncio.wait([task])
                log.warning("leadership lost", extra={"lease": self._settings.name})
        finally:
            await self._release(client)

    async def _acquire(self, client: KubeClient) -> None:
        while not await self._attempt(client):  # noqa: ASYNC110 - it changes on the API server
            await asyncio.sleep(self._settings.duration_seconds / RENEWALS / 2)

    async def _hold(self, client: KubeClient, task: "asyncio.Future[Any]") -> None:
        """Renew until the Lease is lost; raises what ``task`` raises when that ends by itself."""
        while self.leads:
            await asyncio.wait([task], timeout=self._settings.duration_seconds / RENEWALS)
            if task.done():
                task.result()
                return
            await self._attempt(client)

    async def _attempt(self, client: KubeClient) -> bool:
        """Take or renew the Lease; False when somebody else holds it or nobody answers."""
        began = self._monotonic()
        try:
            async with asyncio.timeout(self._settings.duration_seconds * ATTEMPT_SHARE):
                held = await self._exchange(client)
        except (SlmError, TimeoutError) as error:
            log.warning("the Lease could not be renewed", extra={"error": str(error) or "no answer in time"})
            return False
        if held:
            self._valid_until = began + self._settings.duration_seconds * WRITE_SHARE
        else:
            self._valid_until = 0.0
        return held

    async def _exchange(self, client: KubeClient) -> bool:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._settings.namespace}/leases"
        if self._own is not None:
            # Most renewals: nobody else wrote it, so it need not be read.
            with suppress(Conflict):
                if await self._write(client, path, self._own):
                    return True
        found = await client.read(f"{path}/{self._settings.name}")
        if found is not None and self._is_held_by_another(found):
            return False
        return await self._write(client, path, found)

    async def _write(self, client: KubeClient, path: str, found: Manifest | None) -> bool:
        """Put our name into the Lease as it was found; False when it is gone, Conflict when it is another by now."""
        self._own = None
        if found is None:
            self._own = await client.write("POST", path, self._lease({}, {}))
        else:
            # The resourceVersion in metadata makes this a compare-and-swap: of two who try, one gets a conflict.
            lease = self._lease(found["metadata"], found["spec"])
            self._own = await client.write("PUT", f"{path}/{self._settings.name}", lease)
        return self._own is not None

    def _is_held_by_another(self, found: Manifest) -> bool:
        if found["spec"] != self._seen:
            self._seen, self._seen_at = found["spec"], self._monotonic()
        holder = found["spec"].get("holderIdentity")
        if not holder or holder == self._settings.identity:
            return False
        promised = found["spec"].get("leaseDurationSeconds") or self._settings.duration_seconds
        return self._monotonic() - self._seen_at < promised

    def _lease(self, metadata: Manifest, before: Manifest, *, held: bool = True) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = before.get("holderIdentity") == self._settings.identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._settings.name, "namespace": self._settings.namespace, **metadata},
            "spec": {
                "holderIdentity": self._settings.identity if held else "",
                "leaseDurationSeconds": max(1, round(self._settings.duration_seconds)),
                "acquireTime": before.get("acquireTime", now) if same else now,
                "renewTime": now,
                "leaseTransitions": before.get("leaseTransitions", 0) + (0 if same else 1),
            },
        }

    async def _release(self, client: KubeClient) -> None:
        """Let the other replica act at once instead of after the duration."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._settings.namespace}/leases/{self._settings.name}"
        try:
            async with asyncio.timeout(self._settings.duration_seconds / RENEWALS):
                found = await client.read(path)
                if found and found["spec"].get("holderIdentity") == self._settings.identity:
                    await client.write("PUT", path, self._lease(found["metadata"], found["spec"], held=False))
        except (SlmError, TimeoutError) as error:
            log.warning("the Lease was not given back", extra={"error": str(error) or "no answer in time"})
