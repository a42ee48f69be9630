"""Shell completion of kinds and names: reads the object database, never creates it, never complains."""

import asyncio
import sqlite3
from collections.abc import Iterable

import typer

from slm_operator.api.registry import INFOS
from slm_operator.cli.goals import CONDITIONS
from slm_operator.cli.naming import UNQUANTIZED
from slm_operator.cli.session import CHILD_KINDS, find_kind, local_paths, namespace_of, open_cluster
from slm_operator.core.sizes import QUANT_TYPES
from slm_operator.errors import SlmError


def complete_objects(ctx: typer.Context, incomplete: str) -> list[str]:
    """What may follow in ``KIND NAME...`` or ``KIND/NAME...``."""
    words = ctx.params.get("words") or []
    kind, slash, _ = incomplete.rpartition("/")
    if slash:
        return _starting((f"{kind}/{name}" for name in names_of(kind, ctx)), incomplete)
    if words:
        return _starting((name for name in names_of(words[0], ctx) if name not in words), incomplete)
    return _starting(_kinds(), incomplete)


def complete_target(ctx: typer.Context, incomplete: str) -> list[str]:
    """What may stand for ``KIND/NAME``: kinds with their slash first, then names."""
    kind, slash, _ = incomplete.rpartition("/")
    found = (f"{kind}/{name}" for name in names_of(kind, ctx)) if slash else (f"{each}/" for each in _kinds())
    return _starting(found, incomplete)


def complete_service(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of InferenceServices."""
    return _starting(names_of("InferenceService", ctx), incomplete)


def complete_variant(incomplete: str) -> list[str]:
    """Types whose sizes are known, and the word for none."""
    return _starting([UNQUANTIZED, *QUANT_TYPES], incomplete)


def complete_goal(incomplete: str) -> list[str]:
    """What ``slm wait`` can wait for."""
    names = dict.fromkeys(name for kind in INFOS for name in CONDITIONS[kind])
    return _starting(["delete", *(f"condition={name}" for name in names)], incomplete)


def names_of(kind: str, ctx: typer.Context) -> list[str]:
    """Names of a kind's objects in the namespace given so far; empty when anything is in the way."""

    async def work(resolved: str) -> list[str]:
        async with open_cluster() as cluster:
            items = await cluster.list(resolved, namespace_of(ctx.params.get("namespace") or ""))
            return [item["metadata"]["name"] for item in items]

    try:
        return asyncio.run(work(find_kind(kind))) if local_paths().database.exists() else []
    except (SlmError, OSError, sqlite3.Error):
        return []


def _kinds() -> list[str]:
    names = [info.plural for info in INFOS.values()] + [names[0] for names in CHILD_KINDS.values()]
    return names + [short for info in INFOS.values() for short in info.short_names]


def _starting(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
