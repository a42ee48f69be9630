"""Kubernetes Events: equal ones are counted in one object, and a storm of them is written once a minute."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from slm_operator.adapters.kube_client import FIELD_MANAGER, MERGE, KubeClient
from slm_operator.adapters.kube_kinds import KINDS
from slm_operator.adapters.object_cache import Entry
from slm_operator.errors import Conflict
from slm_operator.ports import EventRecord, Manifest

REMEMBERED = 4096
"""Events whose counts are kept; one that was forgotten, or belongs to an earlier process, goes on from its name."""
QUIET_SECONDS = 60.0
"""A repeat within this time is counted, and written with the next one."""
MAX_MESSAGE = 1024
"""Limit of the API server for an Event's message."""


@dataclass
class _Known:
    count: int
    written_at: float


class EventWriter:
    """Writes ``v1`` Events about objects of ours."""

    def __init__(self, client: KubeClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def write(self, event: EventRecord, about: Entry | None) -> None:
        """Record one occurrence; ``about`` is the object as it is known."""
        name = _name(event, about.uid if about else "")
        now, known = self._monotonic(), self._known.get(name)
        if known is not None:
            known.count += 1
            if now - known.written_at < QUIET_SECONDS:
                return
            known.written_at = now
            if await self._count(event, name, known.count):
                return
        try:
            await self._client.write("POST", _path(event), _manifest(event, name, about))
        except Conflict:
            # Of an earlier process: how often it happened before is written there, and reading it is not worth a call.
            await self._count(event, name, 2)
        self._remember(name, now)

    async def _count(self, event: EventRecord, name: str, count: int) -> bool:
        patch = {"count": count, "lastTimestamp": _timestamp()}
        return await self._client.write("PATCH", f"{_path(event)}/{name}", patch, content=MERGE) is not None

    def _remember(self, name: str, now: float) -> None:
        self._known[name] = _Known(1, now)
        self._known.move_to_end(name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def _path(event: EventRecord) -> str:
    return f"/api/v1/namespaces/{event.about.namespace}/events"


def _name(event: EventRecord, uid: str) -> str:
    """The same for the same occurrence, whoever writes it."""
    told = json.dumps([event.about.kind, uid, event.type, event.reason, event.message])
    return f"{event.about.name[:200]}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _manifest(event: EventRecord, name: str, about: Entry | None) -> Manifest:
    now, key = _timestamp(), event.about
    message = event.message if len(event.message) <= MAX_MESSAGE else f"{event.message[: MAX_MESSAGE - 1]}…"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": key.namespace},
        "involvedObject": {
            "apiVersion": KINDS[key.kind].api_version,
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            **({"uid": about.uid, "resourceVersion": str(about.version)} if about else {}),
        },
        "type": event.type,
        "reason": event.reason,
        "message": message,
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
