"""kopf as informer: it authenticates, lists and watches, and every event goes into the cache."""

import asyncio
import dataclasses
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

import kopf

from slm_operator.adapters.kube_kinds import KINDS, Kind
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.core.plan import key_of

RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
LIST_PAGE = 500
"""Objects in one answer of a listing: bounds memory when thousands exist."""
IDLE_SECONDS = 0.1
"""kopf keeps a task per object for this long after its last event; ours ends each at once."""
WATCHER = "watcher for "
"""How kopf names the tasks that watch."""
END_SECONDS = 30.0
"""Longest wait for kopf's tasks to end, which take two seconds: what hangs must not hold up the next beginning."""
RESTART_SECONDS = 2.0
"""Between the end of all watches and the next beginning: what ended them may last."""

log = logging.getLogger(__name__)


class NothingToCompare(kopf.DiffBaseStorage):
    """What an object was when kopf last handled it: of no use here, and kopf copies every object for it otherwise."""

    def build(self, **_: Any) -> Any:
        """Nothing of an object is compared."""
        return None

    def fetch(self, **_: Any) -> Any:
        """Nothing was kept."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


class NoProgress(kopf.ProgressStorage):
    """How far kopf's handlers of an object are: ours run to their end at once."""

    def fetch(self, **_: Any) -> Any:
        """Nothing is under way."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""

    def purge(self, **_: Any) -> None:
        """Nothing was kept."""

    def touch(self, **_: Any) -> None:
        """Write nothing."""

    def clear(self, *, essence: Any) -> Any:
        """Nothing was kept in it."""
        return essence


class Patient:
    """Delays of retries without end: while an API server restarts, watches wait instead of ending the operator."""

    def __iter__(self) -> Any:
        """The delays, seconds."""
        yield from RECONNECT_SECONDS
        while True:
            yield RECONNECT_SECONDS[-1]


async def watch(
    cache: ObjectCache, namespaces: Iterable[str], field_selectors: dict[str, str], listed_again: Callable[[], None],
    started: Callable[[], None], kinds: Sequence[Kind] = tuple(KINDS.values()),
) -> None:  # fmt: skip
    """List and watch kinds into the cache until cancelled, in all namespaces if none is named.

    kopf gives up at answers that it does not know: 404, 409 or 410 to a request, an error of another code than 410
    inside a watch. Neither is a reason to end a process that leads, so all watches begin anew. ``started`` is called
    each time kopf has taken SIGTERM and SIGINT for itself.
    """
    asyncio.get_running_loop().set_exception_handler(_tell)
    while True:
        try:
            registry = build_registry(cache, listed_again, kinds)
            await _watch_once(registry, namespaces, build_settings(field_selectors, kinds), started)
        except Exception as error:  # Whatever it was: the audit says whether they keep up.
            sentence = str(error.args[0]) if error.args else type(error).__name__
            trace = None if is_foreseen(error) else error
            log.warning("the watches ended, and begin anew", extra={"error": sentence}, exc_info=trace)
        await asyncio.sleep(RESTART_SECONDS)


def is_foreseen(error: BaseException) -> bool:
    """Whether an error is an API server's or the network's, and no bug."""
    return type(error).__module__.partition(".")[0] in {"kopf", "aiohttp"} or isinstance(error, OSError)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Of several watches that fail at once kopf asks one for its error; the others' are no news."""
    error = context.get("exception")
    if error is None or not is_foreseen(error):
        loop.default_exception_handler(context)


async def _watch_once(
    registry: kopf.OperatorRegistry, namespaces: Iterable[str], settings: kopf.OperatorSettings,
    started: Callable[[], None],
) -> None:  # fmt: skip
    """Watch until kopf ends; raises what ended it.

    ``kopf.operator()`` in two halves: at its end it would cancel every task that began after it, whoever made it.
    """
    chosen = tuple(namespaces)
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings,
        clusterwide=not chosen,
        namespaces=chosen,
        identity=cast("Any", "slm-operator"),  # Nobody asks for it, but kopf would look for a user's name.
    )
    started()
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Where one watch fails kopf leaves the others running, each with its connection.
        left = {*tasks, *(task for task in asyncio.all_tasks() if task.get_name().startswith(WATCHER))}
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=END_SECONDS)
    for task in ended:
        task.result()


def build_settings(
    field_selectors: dict[str, str], kinds: Iterable[Kind] = tuple(KINDS.values())
) -> kopf.OperatorSettings:
    """Kopf as an informer and nothing else: no peering, no annotations, no finalizers, no Events of its own."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None  # Else kopf's end is, ten minutes later, a SIGKILL to us all.
    settings.persistence.diffbase_storage = NothingToCompare()
    settings.persistence.progress_storage = NoProgress()
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = cast("Iterable[float]", Patient())
    settings.networking.enforce_retry_after = True
    settings.watching.chunk_size = LIST_PAGE
    settings.watching.server_timeout = 600
    settings.queueing.idle_timeout = IDLE_SECONDS
    for kind in kinds:
        selector = (kind.group, kind.version, kind.plural)
        if kind.label_selector:
            settings.watching.label_selectors[selector] = kind.label_selector
        if kind.name in field_selectors:
            settings.watching.field_selectors[selector] = field_selectors[kind.name]
    return settings


def build_registry(
    cache: ObjectCache, listed_again: Callable[[], None], kinds: Iterable[Kind] = tuple(KINDS.values())
) -> kopf.OperatorRegistry:
    """One handler for the events of every kind; ``listed_again`` is called when a watch has started anew."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry, id="login")(_login)

    remember = build_listener(cache, listed_again)
    for kind in kinds:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id="remember")(remember)
    return registry


def build_listener(cache: ObjectCache, listed_again: Callable[[], None]) -> Callable[..., Awaitable[None]]:
    """What kopf calls for an event: a coroutine, though it waits for nothing.

    A plain function would be called in a thread, and the cache belongs to the event loop.
    """

    async def remember(event: Any, **_: Any) -> None:
        store(cache, event, listed_again)

    return remember


def store(cache: ObjectCache, event: Any, listed_again: Callable[[], None]) -> None:
    """One event of a watch (or, without a type, of a listing) into the cache."""
    manifest, key = event["object"], key_of(event["object"])
    if event["type"] == "DELETED":
        cache.remove(key, int(manifest["metadata"]["resourceVersion"]))
        return
    if event["type"] is None and cache.entry(key) is not None:
        # Known already and listed: this watch had a gap, in which deletions went unseen.
        listed_again()
    cache.put(manifest)


class Connection(kopf.ConnectionInfo):
    """Credentials whose TLS check is that of Kubernetes' own clients.

    Since 3.13 Python refuses certificates that do not name their authority's key, as those of older clusters.
    """

    def as_ssl_context(self) -> ssl.SSLContext:
        """The context without VERIFY_X509_STRICT; chains and names are checked as ever."""
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
    if found is None:
        return None
    return Connection(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})
