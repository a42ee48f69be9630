"""What most commands begin with: settings, the object database, the namespace, the objects meant."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import Annotated

import typer
from pydantic import ValidationError

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.api.registry import INFOS, resolve_kind
from slm_operator.cli.exits import NOT_RUNNING, USAGE, CommandFailed
from slm_operator.cli.terminal import terminal
from slm_operator.errors import NotFound
from slm_operator.local.lifecycle import running_pid, start_daemon
from slm_operator.local.paths import LocalPaths
from slm_operator.ports import Manifest, ObjectKey
from slm_operator.settings import Settings, check_namespace

Namespace = Annotated[
    str, typer.Option("-n", "--namespace", metavar="NAME", help="Namespace. Default: $SLM_NAMESPACE, else default.")
]
NO_DAEMON = "the daemon is not running, so nothing happens yet: slm up"
THE_PAST = "the daemon is not running, so this is how things were: slm up"
CHILD_KINDS = {
    "Pod": ("pods", "po"),
    "Job": ("jobs",),
    "Deployment": ("deployments", "deploy"),
    "Service": ("services", "svc"),
}
"""Kinds that the operator makes: they can be read, not applied."""


def load_settings() -> Settings:
    """Settings from the environment; a malformed variable ends the command."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"SLM_{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
        )
        raise CommandFailed(f"The environment is malformed: {problems}", USAGE) from error


def local_paths() -> LocalPaths:
    """Where everything lies."""
    return LocalPaths.of(load_settings())


@asynccontextmanager
async def open_cluster() -> AsyncIterator[SqliteCluster]:
    """The local backend's objects."""
    cluster = SqliteCluster(local_paths().database)
    try:
        yield cluster
    finally:
        cluster.close()


def namespace_of(option: str) -> str:
    """The namespace a command works in; raises CommandFailed USAGE for what cannot be one."""
    if option and (problem := check_namespace(option)):
        raise CommandFailed(f"--namespace: {problem}.", USAGE)
    return option or load_settings().namespace


def hint_without_daemon() -> None:
    """Say that objects wait when nobody works on them."""
    if running_pid(local_paths()) is None:
        terminal.hint(NO_DAEMON)


def hint_of_the_past() -> None:
    """Say that nobody has looked at what is shown since the daemon ended, which a killed one cannot write."""
    if running_pid(local_paths()) is None:
        terminal.hint(THE_PAST)


def ensure_daemon() -> None:
    """Return once a daemon works, starting it if need be; raises CommandFailed when that is switched off."""
    settings = load_settings()
    paths = LocalPaths.of(settings)
    absent = running_pid(paths) is None
    if absent and not settings.autostart:
        message = "The daemon is not running and SLM_AUTOSTART forbids starting it: run `slm up` first."
        raise CommandFailed(message, NOT_RUNNING)
    pid = start_daemon(paths, settings.start_seconds)
    if absent:
        terminal.hint(f"started the daemon (process {pid})")


def find_kind(name: str) -> str:
    """The kind a user means; raises CommandFailed that lists what there is."""
    kind = resolve_kind(name)
    if kind is None:
        wanted = name.lower()
        kind = next((each for each, also in CHILD_KINDS.items() if wanted in {each.lower(), *also}), None)
    if kind is None:
        raise CommandFailed(f"There is no kind {name!r}{_suggest_kind(name)}", USAGE)
    return kind


def _suggest_kind(name: str) -> str:
    """The kind that may be meant, or what there is."""
    words = [word for kind, info in INFOS.items() for word in (kind.lower(), info.plural, *info.short_names)]
    words += [word for kind, names in CHILD_KINDS.items() for word in (kind.lower(), *names)]
    if near := get_close_matches(name.lower(), words, 1):
        return f": did you mean {near[0]}?"
    known = [*(f"{info.plural} ({', '.join(info.short_names)})" for info in INFOS.values())]
    known += [names[0] for names in CHILD_KINDS.values()]
    return f"; the kinds are {', '.join(known)}."


def find_kinds(names: str) -> list[str]:
    """Kinds of a comma-separated list; ``all`` means our three."""
    return list(INFOS) if names == "all" else [find_kind(name) for name in names.split(",")]


def parse_keys(words: Sequence[str], namespace: str) -> list[ObjectKey]:
    """Objects from ``KIND NAME...`` or ``KIND/NAME...``; raises CommandFailed on anything else."""
    if words and all("/" in word for word in words):
        pairs = [word.split("/", 1) for word in words]
    elif len(words) > 1 and not any("/" in word for word in words):
        pairs = [[words[0], name] for name in words[1:]]
    else:
        raise CommandFailed(f"Name objects as KIND NAME or as KIND/NAME, not as {' '.join(words)!r}.", USAGE)
    return [ObjectKey(find_kind(kind), namespace, name) for kind, name in pairs]


async def require(cluster: SqliteCluster, key: ObjectKey) -> Manifest:
    """The object; raises NotFound."""
    found = await cluster.get(key)
    if found is None:
        raise NotFound(describe_absence(key))
    return found


def describe_absence(key: ObjectKey) -> str:
    """That an object does not exist, and where."""
    return f"{display_name(key)} does not exist in namespace {key.namespace}."


def display_name(key: ObjectKey) -> str:
    """``slmmodel.slm.dev/name`` as kubectl writes it; kinds of other groups without a group."""
    group = ".slm.dev" if key.kind in INFOS else ""
    return f"{key.kind.lower()}{group}/{key.name}"


def condition_of(manifest: Manifest, name: str) -> Manifest:
    """The condition of that type, or an empty one."""
    conditions = (manifest.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if str(item.get("type")).lower() == name.lower()), {})
