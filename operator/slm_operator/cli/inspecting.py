"""``slm describe`` and ``slm events``: why an object is as it is."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from slm_operator.cli.command import Command
from slm_operator.cli.completing import complete_objects
from slm_operator.cli.exits import EPILOG
from slm_operator.cli.forms import Form, FormOption, render_items, render_yaml
from slm_operator.cli.history import EventRow, find_events
from slm_operator.cli.human import format_age
from slm_operator.cli.selecting import Selector, parse_selection, select
from slm_operator.cli.session import (
    Namespace,
    hint_of_the_past,
    namespace_of,
    open_cluster,
    parse_keys,
    require,
)
from slm_operator.cli.tables import render_rows
from slm_operator.cli.terminal import terminal
from slm_operator.cli.writing import wanted_part
from slm_operator.core.plan import key_of
from slm_operator.ports import Manifest

app = typer.Typer()


def describe_object(manifest: Manifest, events: Sequence[EventRow], now: datetime) -> str:
    """Everything about one object, as text."""
    meta, status = manifest["metadata"], dict(manifest.get("status") or {})
    conditions = status.pop("conditions", [])
    head = {
        "Name": meta["name"],
        "Namespace": meta["namespace"],
        "Kind": manifest["kind"],
        "Age": format_age(meta.get("creationTimestamp"), now),
        "Generation": str(meta.get("generation", "")),
    }
    parts = ["\n".join(f"{name + ':':<12} {value}" for name, value in head.items())]
    parts.append("Spec:\n" + _indent(render_yaml(wanted_part(manifest).get("spec", {}))))
    if status:
        parts.append("Status:\n" + _indent(render_yaml(status)))
    if conditions:
        rows = [["TYPE", "STATUS", "REASON", "MESSAGE"]]
        rows += [[str(each.get(name, "")) for name in ("type", "status", "reason", "message")] for each in conditions]
        parts.append("Conditions:\n" + _indent(render_rows(rows)))
    parts.append("Events:\n" + _indent(render_events(events, now)) if events else "Events:      none")
    return "\n".join(parts)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def render_events(events: Sequence[EventRow], now: datetime) -> str:
    """Events as a table."""
    rows = [["AGE", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"]]
    for event in events:
        about = f"{event['kind'].lower()}/{event['name']}"
        age = format_age(event["last"], now)
        rows.append([age, event["type"], event["reason"], about, str(event["count"]), event["message"]])
    return render_rows(rows)


@app.command(cls=Command, epilog=EPILOG)
def describe(
    words: Annotated[list[str], typer.Argument(metavar="KIND [NAME...]", autocompletion=complete_objects)],
    selector: Selector = "",
    namespace: Namespace = "",
) -> None:
    """Show everything about objects: status, conditions, events.

    Examples:
      slm describe slmmodel qwen
      slm describe slmsvc
      slm describe qj/qwen-q4 slmsvc/qwen

    """
    selection = parse_selection(words, namespace_of(namespace), selector)

    async def work() -> list[str]:
        async with open_cluster() as cluster:
            found = [(item, key_of(item)) for item in await select(cluster, selection)]
            now = datetime.now(UTC)
            return [describe_object(item, await find_events(cluster, key), now) for item, key in found]

    if texts := asyncio.run(work()):
        terminal.result("\n\n".join(texts))
        hint_of_the_past()
    else:
        terminal.hint(f"no {selection}")


@app.command(cls=Command, epilog=EPILOG)
def events(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND NAME]", show_default=False, autocompletion=complete_objects)
    ] = None,
    output: FormOption = Form.TABLE,
    namespace: Namespace = "",
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Of every namespace.")] = False,
) -> None:
    """List what happened, oldest first.

    Events of an object are also those of its Jobs and Pods: the crash of an engine is one of its Pod.

    Examples:
      slm events
      slm events slmmodel qwen
      slm events -o json

    """
    place = namespace_of(namespace)

    async def work() -> Sequence[EventRow]:
        async with open_cluster() as cluster:
            if not words:
                return await cluster.events("" if all_namespaces else place)
            found: list[EventRow] = []
            for key in parse_keys(words, place):
                about = await find_events(cluster, key)
                if not about:
                    await require(cluster, key)
                found += about
            return found

    found = asyncio.run(work())
    if output is not Form.TABLE:
        terminal.result(render_items(list(found), output))
    elif found:
        terminal.result(render_events(found, datetime.now(UTC)))
        hint_of_the_past()
    else:
        everything = "in any namespace" if all_namespaces else f"in namespace {place}"
        terminal.hint(f"no events {'about ' + ' '.join(words) if words else everything}")
