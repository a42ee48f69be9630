"""``slm apply`` and ``diff``: objects from manifests."""

import asyncio
import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.command import Command
from slm_operator.cli.documents import Document, Reading, refusal
from slm_operator.cli.exits import EPILOG, FAILURE, USAGE, CommandFailed
from slm_operator.cli.forms import render_yaml
from slm_operator.cli.identity import IMMUTABLE, identity_of
from slm_operator.cli.kustomization import add_kustomization
from slm_operator.cli.naming import MADE_BY
from slm_operator.cli.session import (
    Namespace,
    display_name,
    hint_without_daemon,
    namespace_of,
    open_cluster,
)
from slm_operator.cli.terminal import Quiet, terminal
from slm_operator.ports import Manifest

app = typer.Typer()
Files = Annotated[
    list[str] | None,
    typer.Option(
        "-f", "--filename", metavar="FILE", help="File, folder or - for standard input; may be given several times."
    ),
]
Kustomize = Annotated[
    list[str] | None,
    typer.Option("-k", "--kustomize", metavar="FOLDER", help="Folder that holds a kustomization.yaml."),
]
Recursive = Annotated[bool, typer.Option("-R", "--recursive", help="Look into the subfolders of -f too.")]
KEPT_METADATA = ("labels", "annotations")


def read_wanted(
    files: list[str] | None, kustomizations: list[str] | None, namespace: str, *, recursive: bool
) -> list[Document]:
    """Objects of ``-f`` and ``-k``; raises CommandFailed USAGE when neither is given, InvalidManifest for faults."""
    if not files and not kustomizations:
        raise CommandFailed("Name manifests with -f FILE, or a kustomization with -k FOLDER.", USAGE)
    reading = Reading(namespace)
    for source in files or []:
        reading.add_source(source, recursive=recursive)
    for folder in kustomizations or []:
        add_kustomization(reading, Path(folder))
    return reading.finish([*(files or []), *(kustomizations or [])])


def wanted_part(manifest: Manifest) -> Manifest:
    """What a user wrote of an object: no status, and no metadata that the store gives."""
    meta = {name: manifest["metadata"][name] for name in KEPT_METADATA if manifest["metadata"].get(name)}
    content = {name: part for name, part in manifest.items() if name not in ("metadata", "status")}
    return {**content, "metadata": meta}


def merge(found: Manifest | None, document: Document) -> Manifest:
    """What to apply: the document, with labels and annotations it does not mention kept.

    Only the mark of `slm run` goes: from now on the object is as somebody wrote it.
    """
    meta = document.manifest["metadata"]
    mine = {name: value for name, value in meta.items() if name in ("name", "namespace")}
    theirs = found["metadata"] if found else {}
    for field in KEPT_METADATA:
        kept = {name: value for name, value in theirs.get(field, {}).items() if name != MADE_BY}
        if both := {**kept, **(meta.get(field) or {})}:
            mine[field] = both
    return {**document.manifest, "metadata": mine}


def check_immutable(found: Manifest | None, document: Document) -> str | None:
    """Why the document may not replace the object, or None."""
    if found is None or identity_of(found) == identity_of(document.manifest):
        return None
    field = IMMUTABLE[document.key.kind]
    return f"{document.place}: spec.{field} is immutable: delete {display_name(document.key)} or choose another name"


async def apply_documents(cluster: SqliteCluster, documents: list[Document]) -> None:
    """Write every document, or none when one may not be written; says what became of each."""
    found = [await cluster.get(document.key) for document in documents]
    faults = [fault for pair in zip(found, documents, strict=True) if (fault := check_immutable(*pair))]
    if faults:
        raise refusal(faults)
    for before, document in zip(found, documents, strict=True):
        after = await cluster.apply(merge(before, document))
        terminal.say(f"{display_name(document.key)} {_verb(before, after)}")


def _verb(before: Manifest | None, after: Manifest) -> str:
    if before is None:
        return "created"
    same = before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion")
    return "unchanged" if same or wanted_part(before) == wanted_part(after) else "configured"


@app.command(cls=Command, epilog=EPILOG)
def apply(
    filename: Files = None,
    kustomize: Kustomize = None,
    recursive: Recursive = False,
    namespace: Namespace = "",
    _quiet: Quiet = False,
) -> None:
    """Create or update the objects of manifests.

    All manifests are validated before the first is written: either every one is applied or none.

    Examples:
      slm apply -f model.yaml -f service.yaml
      slm apply -k examples/demo
      cat model.yaml | slm apply -f -

    """

    async def work() -> None:
        documents = read_wanted(filename, kustomize, namespace_of(namespace), recursive=recursive)
        async with open_cluster() as cluster:
            await apply_documents(cluster, documents)

    asyncio.run(work())
    hint_without_daemon()


def difference(found: Manifest | None, document: Document) -> str:
    """Unified diff from what is there to what would be; empty when nothing would change."""
    name = display_name(document.key)
    before = render_yaml(wanted_part(found)) if found else ""
    wanted = merge(found, document)
    # Of a new object the whole is the difference, its name too.
    after = render_yaml(_ordered(wanted_part(wanted), wanted_part(found)) if found else _named(wanted))
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name} (live)", f"{name} (merged)", lineterm=""
    )
    return "\n".join(lines)


def _named(manifest: Manifest) -> Manifest:
    return {name: manifest[name] for name in ("apiVersion", "kind", "metadata") if name in manifest} | manifest


def _ordered(value: Any, like: Any) -> Any:
    """The value with mapping keys in the order of ``like``, so that order alone is never a difference."""
    if not isinstance(value, dict) or not isinstance(like, dict):
        return value
    names = [*(name for name in like if name in value), *(name for name in value if name not in like)]
    return {name: _ordered(value[name], like.get(name)) for name in names}


@app.command(cls=Command, epilog=EPILOG)
def diff(
    filename: Files = None, kustomize: Kustomize = None, recursive: Recursive = False, namespace: Namespace = ""
) -> None:
    """Show what apply would change.

    Exits with 0 when nothing would change and with 1 when something would.

    Examples:
      slm diff -f model.yaml
      slm diff -k examples/demo || slm apply -k examples/demo

    """

    async def work() -> list[str]:
        documents = read_wanted(filename, kustomize, namespace_of(namespace), recursive=recursive)
        async with open_cluster() as cluster:
            return [difference(await cluster.get(document.key), document) for document in documents]

    changes = [text for text in asyncio.run(work()) if text]
    if changes:
        terminal.result("\n".join(changes))
        raise typer.Exit(FAILURE)
