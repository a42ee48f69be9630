"""What the gateway knows of the world: services, their names and the engines that are ready to answer for them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Endpoint:
    """One engine that is ready."""

    id: str
    """Stays the same for as long as the engine keeps what it has cached: a pod's name, not its address."""
    host: str
    port: int


@dataclass(frozen=True)
class Service:
    """An InferenceService as requests see it."""

    namespace: str
    name: str
    served_name: str = ""
    """The model's name as the engine knows it; empty: whatever the client said."""
    digest: str = ""
    """Digest of the weights that answer, for the audit."""
    slots: int = 1
    """Answers that one engine works on at a time; more wait here."""
    endpoints: tuple[Endpoint, ...] = ()
    """None while the service is at zero, or its first engine starts."""
    aliases: tuple[str, ...] = ()
    """Further names within the namespace: of the model, and ``model:variant``."""
    created: int = 0
    """Unix time, seconds."""

    @property
    def key(self) -> str:
        """``namespace/name``: its name everywhere."""
        return f"{self.namespace}/{self.name}"

    @property
    def capacity(self) -> int:
        """Answers that all its engines work on at a time."""
        return self.slots * len(self.endpoints)


class Directory(Protocol):
    """Where the gateway looks services up. Looking up never waits: whoever implements this keeps it in memory."""

    def find(self, model: str, namespace: str) -> Service | None:
        """The service of that name: ``namespace/name``, ``namespace/alias``, or either within the given namespace."""

    def services(self) -> Sequence[Service]:
        """All of them."""

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call with the key of each service that is new, different or gone, from the gateway's event loop."""


class StaticDirectory:
    """Services given in memory; a ``Directory``."""

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._services: dict[str, Service] = {}
        self._names: dict[str, Service] = {}
        self._subscribers: list[Callable[[str], None]] = []
        self.replace(services)

    def replace(self, services: Iterable[Service]) -> None:
        """These are the services from now on. Of two that claim an alias the first by name has it."""
        before = self._services
        self._services = {service.key: service for service in sorted(services, key=lambda each: each.key)}
        self._names = {}
        for service in self._services.values():
            for alias in service.aliases:
                self._names.setdefault(f"{service.namespace}/{alias}", service)
        self._names |= self._services
        keys = before.keys() | self._services.keys()
        for key in sorted(key for key in keys if before.get(key) != self._services.get(key)):
            for subscriber in self._subscribers:
                subscriber(key)

    def find(self, model: str, namespace: str) -> Service | None:
        """See ``Directory``. What stands in the caller's own namespace comes first: aliases may hold slashes."""
        return self._names.get(f"{namespace}/{model}") or self._names.get(model)

    def services(self) -> Sequence[Service]:
        """See ``Directory``."""
        return tuple(self._services.values())

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """See ``Directory``."""
        self._subscribers.append(changed)
