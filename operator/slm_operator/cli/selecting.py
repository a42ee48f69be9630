"""Which objects a command is about: named ones, or all of some kinds, narrowed by labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.exits import USAGE, CommandFailed
from slm_operator.cli.session import find_kinds, parse_keys, require
from slm_operator.ports import Manifest, ObjectKey

Selector = Annotated[
    str,
    typer.Option(
        "-l", "--selector", metavar="LABELS", help="Only objects with these labels: key=value, several with commas."
    ),
]
"""The -l of commands that read or delete."""


@dataclass(frozen=True)
class Selection:
    """What the words of a command line mean."""

    namespace: str
    """Where to look; empty for everywhere."""
    keys: list[ObjectKey] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    """Kinds of which all objects are meant; empty when objects are named."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        place = f"namespace {self.namespace}" if self.namespace else "any namespace"
        labels = ",".join("=".join(pair) for pair in self.labels.items())
        return f"{', '.join(self.kinds)} in {place}{' with ' if labels else ''}{labels}"

    def holds(self, manifest: Manifest) -> bool:
        """Whether the object carries the labels."""
        return self.labels.items() <= (manifest["metadata"].get("labels") or {}).items()


def parse_selector(text: str) -> dict[str, str]:
    """Labels of ``key=value,key=value``; raises CommandFailed USAGE for anything else."""
    labels = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.replace("==", "=", 1).partition("=")
        if not equals or not key.strip() or key.endswith("!"):
            raise CommandFailed(f"A selector is written as key=value, several with commas, not {text!r}.", USAGE)
        labels[key.strip()] = value.strip()
    return labels


def parse_selection(words: Sequence[str], namespace: str, selector: str, *, everywhere: bool = False) -> Selection:
    """``KIND``, ``KIND NAME...`` or ``KIND/NAME...`` with -l and -A; raises CommandFailed USAGE for anything else."""
    labels = parse_selector(selector)
    if len(words) == 1 and "/" not in words[0]:
        return Selection("" if everywhere else namespace, kinds=find_kinds(words[0]), labels=labels)
    if everywhere:
        raise CommandFailed("A name is looked up in one namespace: leave out -A or the name.", USAGE)
    if labels:
        raise CommandFailed("A named object needs no labels: leave out -l or the name.", USAGE)
    return Selection(namespace, keys=parse_keys(words, namespace))


async def select(cluster: SqliteCluster, selection: Selection) -> list[Manifest]:
    """The objects; raises NotFound when a named one does not exist."""
    if selection.keys:
        return [await require(cluster, key) for key in selection.keys]
    found = [await cluster.list(kind, selection.namespace, selection.labels) for kind in selection.kinds]
    return [item for items in found for item in items]
