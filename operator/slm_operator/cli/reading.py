"""``slm get``: objects as tables, YAML, JSON or names."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli import tables
from slm_operator.cli.command import Command
from slm_operator.cli.completing import complete_objects
from slm_operator.cli.exits import EPILOG, USAGE, CommandFailed
from slm_operator.cli.forms import render_json, render_yaml
from slm_operator.cli.selecting import Selection, Selector, parse_selection, select
from slm_operator.cli.session import (
    Namespace,
    display_name,
    hint_of_the_past,
    namespace_of,
    open_cluster,
)
from slm_operator.cli.terminal import terminal
from slm_operator.core.plan import key_of
from slm_operator.ports import Manifest

app = typer.Typer()
ORDER = ("apiVersion", "kind", "metadata", "spec", "status")
"""How manifests are written by hand."""


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


TABLES = (Output.TABLE, Output.WIDE)
"""Forms for people, who are told what else there is to know."""


def render(items: Sequence[Manifest], output: Output, *, single: bool, with_namespace: bool) -> str:
    """The objects in the wanted form; ``single`` prints one object rather than a list of one."""
    if output is Output.NAME:
        return "\n".join(display_name(key_of(item)) for item in items)
    if output in (Output.JSON, Output.YAML):
        ordered = [{name: item[name] for name in ORDER if name in item} | item for item in items]
        value: Any = ordered[0] if single else {"apiVersion": "v1", "kind": "List", "items": ordered}
        return render_json(value) if output is Output.JSON else render_yaml(value).rstrip()
    kinds = dict.fromkeys(item["kind"] for item in items)
    groups = [[item for item in items if item["kind"] == kind] for kind in kinds]
    wide = output is Output.WIDE
    parts = [tables.build_rows(group[0]["kind"], group, wide=wide, with_namespace=with_namespace) for group in groups]
    return "\n\n".join(tables.render_rows(rows) for rows in parts)


@app.command(cls=Command, epilog=EPILOG)
def get(
    words: Annotated[list[str], typer.Argument(metavar="KIND [NAME...]", autocompletion=complete_objects)],
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the output.")] = Output.TABLE,
    selector: Selector = "",
    namespace: Namespace = "",
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="In every namespace.")] = False,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on and print each change.")] = False,
) -> None:
    """List objects or print them.

    KIND is a kind, a plural or a short name (slm, qj, slmsvc), several with commas, or all; pods, jobs,
    deployments and services can be read too.

    Examples:
      slm get slmmodels
      slm get slm,qj,slmsvc -o wide
      slm get slmsvc chat -o yaml
      slm get slm -l team=search
      slm get qj -w

    """
    selection = parse_selection(words, namespace_of(namespace), selector, everywhere=all_namespaces)

    async def work() -> None:
        async with open_cluster() as cluster:
            await (_watch if watch else _list)(cluster, selection, output)

    asyncio.run(work())


async def _list(cluster: SqliteCluster, selection: Selection, output: Output) -> None:
    items = await select(cluster, selection)
    if items or output in (Output.JSON, Output.YAML):
        single = len(selection.keys) == 1
        terminal.result(render(items, output, single=single, with_namespace=not selection.namespace))
        if output in TABLES:
            hint_of_the_past()
    elif output is not Output.NAME:
        terminal.hint(f"no {selection}")


async def _watch(cluster: SqliteCluster, selection: Selection, output: Output) -> None:
    """Print the objects that exist, then one row or document per change, until interrupted."""
    wanted = {key.kind for key in selection.keys} or set(selection.kinds)
    if len(wanted) > 1:
        raise CommandFailed("Only one kind can be watched at a time.", USAGE)
    printer = RowPrinter(next(iter(wanted)), output, with_namespace=not selection.namespace)
    printer.make_room(await select(cluster, selection))
    if output in TABLES:
        hint_of_the_past()
    async for key in cluster.changes():
        meant = key in selection.keys if selection.keys else selection.namespace in ("", key.namespace)
        if key.kind not in wanted or not meant:
            continue
        if (item := await cluster.get(key)) is not None and selection.holds(item):
            printer.print(item)


class RowPrinter:
    """Rows under a header that is printed again when a column had to grow, so that rows stand below their names."""

    def __init__(self, kind: str, output: Output, *, with_namespace: bool) -> None:
        self._output, self._with_namespace = output, with_namespace
        self._header = tables.build_header(kind, wide=output is Output.WIDE, with_namespace=with_namespace)
        self._widths = [len(cell) for cell in self._header]
        self._started = False

    def make_room(self, items: Sequence[Manifest]) -> bool:
        """Widen columns for what these hold; whether one had to grow."""
        before = self._widths
        for item in items:
            self._widths = [max(pair) for pair in zip(self._widths, map(len, self._row(item)), strict=True)]
        return self._widths != before

    def _row(self, item: Manifest) -> tables.Row:
        wide = self._output is Output.WIDE
        return tables.build_row(item, datetime.now(UTC), wide=wide, with_namespace=self._with_namespace)

    def print(self, item: Manifest) -> None:
        """Print one object as it is now."""
        if self._output not in TABLES:
            separator = "---\n" if self._output is Output.YAML and self._started else ""
            terminal.result(separator + render([item], self._output, single=True, with_namespace=False))
            self._started = True
            return
        if self.make_room([item]) or not self._started:
            terminal.result(tables.render_row(self._header, self._widths))
            self._started = True
        terminal.result(tables.render_row(self._row(item), self._widths))
