"""Looks whether the cache holds what the API server holds.

Watches tell changes, but not everything: an object that is deleted while a watch is down leaves no event when the watch
starts anew with a list, and a watch can hang. So the names and versions of all objects are listed now and then, without
their content. What is gone is removed from the cache, and what the watch did not tell for too long is a fault that
``/healthz`` shows. The first listing also says when the cache is full.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.kube_kinds import KINDS, Kind
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.core.plan import key_of
from slm_operator.errors import ClusterUnavailable, SlmError
from slm_operator.ports import ObjectKey

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE = "500"
"""Objects in one answer: bounds what one listing holds in memory."""
AUDIT_SECONDS = 300.0
"""Between audits: a missed deletion is noticed this late at worst, and a thousand objects cost 20 ms each time."""
STARTING_SECONDS = 0.2
"""Between looks until the cache is full for the first time, before which nobody acts."""
BEHIND_SECONDS = 5.0
"""Between looks while something is missing or a watch has just started anew."""
LONGEST_RETRY_SECONDS = 30.0
"""Between looks while listing fails: the pause doubles up to this."""
STUCK_SECONDS = 120.0
"""A watch that is behind for this long is stuck: it reconnects by itself within 70 s."""

log = logging.getLogger(__name__)


class Audit:
    """Compares the cache with the API server."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        namespaces: Iterable[str],
        field_selectors: Mapping[str, str],
        monotonic: Callable[[], float] = time.monotonic,
        kinds: Iterable[Kind] = tuple(KINDS.values()),
    ) -> None:
        self._client = client
        self._cache = cache
        self._namespaces = tuple(namespaces) or ("",)
        self._field_selectors = field_selectors
        self._monotonic = monotonic
        self._kinds = tuple(kinds)
        self._behind_since: dict[ObjectKey, float] = {}
        self._look = asyncio.Event()
        self.synced = asyncio.Event()
        """Set once the cache held everything that was there."""

    def soon(self) -> None:
        """Look again soon: a watch has started anew."""
        self._look.set()

    def stuck(self) -> str:
        """What the watches have not told for too long, in a sentence; empty when they keep up."""
        now = self._monotonic()
        for key, since in self._behind_since.items():
            if now - since > STUCK_SECONDS:
                return f"The watch of {key.kind} objects is stuck: {key} changed {now - since:.0f} s ago unseen."
        return ""

    async def run(self) -> None:
        """Audit for ever."""
        await self.catch_up()
        self.synced.set()
        while True:
            self._look.clear()
            pause = BEHIND_SECONDS if await self._compare_at_last() else AUDIT_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._look.wait()
                await asyncio.sleep(BEHIND_SECONDS)  # A new watch tells one object after the other: one look for all.
            except TimeoutError:
                pass

    async def catch_up(self) -> None:
        """Return once the watches have told, of every object, at least what the API server holds now.

        What changes meanwhile is not waited for: there may always be something.
        """
        missing = await self._compare_at_last()
        pause = STARTING_SECONDS
        while missing:
            await asyncio.sleep(pause)
            pause = min(pause * 2, BEHIND_SECONDS)
            behind = await self._compare_at_last()
            missing = {key: version for key, version in missing.items() if key in behind and self._lacks(key, version)}

    async def _compare_at_last(self) -> dict[ObjectKey, int]:
        """What ``compare`` answers once the API server answers."""
        failures = 0
        while True:
            try:
                return await self.compare()
            except SlmError as error:
                failures += 1
                pause = retry_seconds(error, failures)
                log.warning("audit failed", extra={"error": str(error), "again_in_seconds": pause})
                await asyncio.sleep(pause)

    async def compare(self) -> dict[ObjectKey, int]:
        """Remove what is gone; what the watches have left to tell, with its version."""
        behind: dict[ObjectKey, int] = {}
        for kind in self._kinds:
            for namespace in self._namespaces:
                there, version = await self._list(kind, namespace)
                for key in self._cache.keys(kind.name):
                    if key not in there and namespace in ("", key.namespace) and self._cache.remove(key, version):
                        log.info("deleted unseen", extra={"object": str(key)})
                behind |= {key: listed for key, listed in there.items() if self._lacks(key, listed)}
        now = self._monotonic()
        self._behind_since = {key: self._behind_since.get(key, now) for key in behind}
        return behind

    def _lacks(self, key: ObjectKey, version: int) -> bool:
        entry = self._cache.entry(key)
        return entry is None or entry.version < version

    async def _list(self, kind: Kind, namespace: str) -> tuple[dict[ObjectKey, int], int]:
        """Versions of the objects, and the version of the list."""
        there: dict[ObjectKey, int] = {}
        query = {"limit": PAGE}
        if kind.label_selector:
            query["labelSelector"] = kind.label_selector
        if kind.name in self._field_selectors:
            query["fieldSelector"] = self._field_selectors[kind.name]
        while True:
            page = await self._client.read(kind.path(namespace), query, accept=METADATA_ONLY)
            if page is None:
                return {}, 0  # Its CRD is not served: nothing is there, and nothing is removed for it.
            for item in page.get("items") or ():
                meta = item["metadata"]
                there[key_of({**item, "kind": kind.name})] = int(meta["resourceVersion"])
            if not page["metadata"].get("continue"):
                return there, int(page["metadata"]["resourceVersion"])
            query["continue"] = page["metadata"]["continue"]


def retry_seconds(error: SlmError, failures: int) -> float:
    """How long to wait after so many failures in a row, 1 or more; no less than the API server asked for."""
    asked = error.retry_after_seconds if isinstance(error, ClusterUnavailable) else None
    return max(asked or 0.0, min(STARTING_SECONDS * 2.0 ** min(failures, 16), LONGEST_RETRY_SECONDS))
