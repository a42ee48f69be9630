"""What the gateway knows of the world: services, their names and the engines that are ready to answer for them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Endpoint:
    """One engine that is ready."""

    id: str
    """Stays the same for as long as the engine keeps what it has cached: a pod's name, not its address."""
    host: str
    port: int
    digest: str = ""
    """Digest of the weights that it serves: during a rollout engines differ."""
    canary: bool = False
    """Whether it is being tried."""
    slots: int = 1
    """Answers that it works on at a time; more wait at the gateway."""
    adapters: tuple[str, ...] = ()
    """Names of the adapters that it holds, in the order in which it numbers them."""
    by_name: bool = False
    """Whether requests name its adapters in place of the model, and do not number them."""

    def __hash__(self) -> int:
        """Of the name alone: each request looks engines up several times."""
        return hash(self.id)

    @property
    def numbers_adapters(self) -> bool:
        """Whether each request must tell it by number which adapter to apply, or that none is."""
        return bool(self.adapters) and not self.by_name


@dataclass(frozen=True)
class About:
    """What catalogs tell of a service beyond its name; empty and 0 where it is not known."""

    variant: str = ""
    """Quantization type, or ``baseline``."""
    family: str = ""
    """Architecture."""
    parameters: int = 0
    license: str = ""
    context_size: int = 0
    """Tokens of one request."""
    size_bytes: int = 0
    """Of the weights."""
    memory_bytes: int = 0
    """Of one engine, as it is forecast."""
    format: str = "gguf"
    """gguf, or safetensors where the files are served as they came."""
    task: str = "generate"
    """generate, embed or rerank."""
    on_gpu: bool = False
    sees: bool = False
    """Whether it reads images, by a projector."""


@dataclass(frozen=True)
class Canary:
    """What is being tried of a service."""

    step: str
    """Name of the step, by which its requests are counted."""
    percent: int
    """Share of the requests that go to it."""


@dataclass(frozen=True)
class Service:
    """An InferenceService as requests see it."""

    namespace: str
    name: str
    served_name: str = ""
    """The model's name as the engine knows it; empty: whatever the client said."""
    digest: str = ""
    """Digest of the weights that are served; an engine's own counts where it says one."""
    endpoints: tuple[Endpoint, ...] = ()
    """None while the service is at zero, or its first engine starts."""
    aliases: tuple[str, ...] = ()
    """Further names within the namespace: of the model, and ``model:variant``."""
    created: int = 0
    """Unix time, seconds."""
    canary: Canary | None = None
    """None while none is to get requests."""
    about: About = About()
    adapters: tuple[str, ...] = ()
    """Names of the adapters that some of its engines hold, or shall hold where there is none."""
    to_come: frozenset[str] = frozenset()
    """Names of those that all of them are to hold."""
    adapter: str = ""
    """The one that a request names; empty: the model as it is."""
    no_engine: str = ""
    """Why it has no engine and will get none by itself, as half a sentence; empty where one may come."""

    @property
    def key(self) -> str:
        """``namespace/name``: its name everywhere."""
        return f"{self.namespace}/{self.name}"

    @property
    def model(self) -> str:
        """What clients call it: ``namespace/name`` or ``namespace/name:adapter``."""
        return f"{self.key}:{self.adapter}" if self.adapter else self.key

    def offers(self) -> "list[Service]":
        """The service as it is, and with each of its adapters."""
        return [self, *(replace(self, adapter=name) for name in self.adapters)]


class Directory(Protocol):
    """Where the gateway looks services up. Looking up never waits: whoever implements this keeps it in memory."""

    def find(self, model: str, namespace: str) -> Service | None:
        """The service of that name: ``namespace/name``, ``namespace/alias``, or either within the given namespace.

        Each may be followed by ``:adapter``.
        """

    def get(self, key: str) -> Service | None:
        """The service of exactly this key."""

    def services(self) -> Sequence[Service]:
        """All of them."""

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call with the key of each service that is new, different or gone, from the gateway's event loop."""


class MemoryDirectory:
    """Services that somebody else keeps up to date; a ``Directory``."""

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._services: dict[str, Service] = {}
        self._claims: dict[str, set[str]] = {}
        # Alias to the keys of the services that have it.
        self._subscribers: list[Callable[[str], None]] = []
        self.replace(services)

    def replace(self, services: Iterable[Service]) -> None:
        """These are the services from now on."""
        given = {service.key: service for service in services}
        for key in sorted(self._services.keys() - given.keys()):
            self.remove(key)
        for key in sorted(given):
            self.put(given[key])

    def put(self, service: Service) -> None:
        """A service that is new or different."""
        before = self._services.get(service.key)
        if before == service:
            return
        if before is not None:
            self._unclaim(before)
        self._services[service.key] = service
        for alias in service.aliases:
            self._claims.setdefault(f"{service.namespace}/{alias}", set()).add(service.key)
        self._announce(service.key)

    def remove(self, key: str) -> None:
        """A service that is gone."""
        before = self._services.pop(key, None)
        if before is not None:
            self._unclaim(before)
            self._announce(key)

    def find(self, model: str, namespace: str) -> Service | None:
        """See ``Directory``. What stands in the caller's own namespace comes first: aliases may hold slashes.

        A service's own name comes before an alias; of two that claim an alias the first by name has it.
        """
        for name in (f"{namespace}/{model}", model):
            if (found := self._named(name) or self._adapted(name)) is not None:
                return found
        return None

    def get(self, key: str) -> Service | None:
        """See ``Directory``."""
        return self._services.get(key)

    def services(self) -> Sequence[Service]:
        """See ``Directory``; by name."""
        return tuple(self._services[key] for key in sorted(self._services))

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """See ``Directory``."""
        self._subscribers.append(changed)

    def _named(self, name: str) -> Service | None:
        found = self._services.get(name)
        if found is None and (claims := self._claims.get(name)):
            return self._services[min(claims)]
        return found

    def _adapted(self, name: str) -> Service | None:
        """With the adapter that the name ends in; of services with one alias the first that has it."""
        served, _, adapter = name.rpartition(":")
        for key in [served] if served in self._services else sorted(self._claims.get(served, ())):
            if adapter in self._services[key].adapters:
                return replace(self._services[key], adapter=adapter)
        return None

    def _unclaim(self, service: Service) -> None:
        for name in {f"{service.namespace}/{alias}" for alias in service.aliases}:
            self._claims[name].discard(service.key)
            if not self._claims[name]:
                del self._claims[name]

    def _announce(self, key: str) -> None:
        for subscriber in self._subscribers:
            subscriber(key)
