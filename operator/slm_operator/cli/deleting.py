"""``slm delete``: objects, what they own, and the processes of that."""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from slm_operator.adapters.process_table import ProcessRecord
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.command import Command
from slm_operator.cli.completing import complete_objects
from slm_operator.cli.exits import EPILOG, TIMEOUT, USAGE, CommandFailed
from slm_operator.cli.human import count_processes
from slm_operator.cli.selecting import Selection, Selector, parse_selection, select
from slm_operator.cli.session import Namespace, describe_absence, display_name, local_paths, namespace_of, open_cluster
from slm_operator.cli.terminal import Quiet, terminal
from slm_operator.cli.writing import Files, Kustomize, Recursive, read_wanted
from slm_operator.core.plan import key_of
from slm_operator.errors import DaemonRunning, NotFound
from slm_operator.local.leftovers import end_records, find_living, read_records
from slm_operator.local.lifecycle import running_pid
from slm_operator.local.paths import LocalPaths
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.references import named_by

app = typer.Typer()
POLL_SECONDS = 0.1
KINDS_WITH_PROCESSES = ("Job", "Deployment", "Pod")
"""What has processes, owners before what they own."""


def parse_doomed(words: Sequence[str], namespace: str, selector: str, *, everything: bool) -> Selection:
    """What to delete; raises CommandFailed USAGE when a kind stands alone: nobody shall delete all by a slip."""
    selection = parse_selection(words, namespace, selector) if words else Selection(namespace)
    if everything and (selection.keys or selection.labels):
        raise CommandFailed("--all takes every object of a kind: leave it out, or the names and -l.", USAGE)
    if (everything or selector) and not words:
        raise CommandFailed("--all and -l need a KIND before them.", USAGE)
    if selection.kinds and not everything and not selection.labels:
        message = f"Name objects as KIND NAME or as KIND/NAME, not as {words[0]!r}; --all takes every one."
        raise CommandFailed(message, USAGE)
    return selection


async def find_doomed(cluster: SqliteCluster, selection: Selection) -> tuple[list[ObjectKey], list[ObjectKey]]:
    """What exists of what is to be deleted, and what does not: one absent object does not spare the others."""
    if selection.kinds:
        return [key_of(item) for item in await select(cluster, selection)], []
    keys = list(dict.fromkeys(selection.keys))
    present = [key for key in keys if await cluster.get(key)]
    return present, [key for key in keys if key not in present]


async def find_pods(cluster: SqliteCluster, key: ObjectKey) -> set[str]:
    """Uids of the pods that an object is or owns, directly or not: its deletion takes them along at once."""
    root = await cluster.get(key)
    family = {root["metadata"]["uid"]} if root else set()
    pods = set(family) if key.kind == "Pod" else set()
    for kind in KINDS_WITH_PROCESSES:
        for child in await cluster.list(kind, key.namespace):
            if any(owner["uid"] in family for owner in child["metadata"].get("ownerReferences", [])):
                family.add(child["metadata"]["uid"])
                pods |= {child["metadata"]["uid"]} if kind == "Pod" else set()
    return pods


async def await_ended(paths: LocalPaths, cluster: SqliteCluster, uids: Collection[str], deadline: float) -> None:
    """Return once the processes of deleted pods have ended: by the daemon, or here when there is none.

    Raises CommandFailed TIMEOUT.
    """
    while left := [record for record in read_records(paths) if record.pod_uid in uids]:
        try:
            async with asyncio.timeout_at(deadline):
                if running_pid(paths) is None:
                    with contextlib.suppress(DaemonRunning):
                        await end_records(paths, cluster, uids)
                await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            message = f"The objects are deleted, but {_name(left)} not ended yet; see slm ps."
            raise CommandFailed(message, TIMEOUT) from None


def _name(records: list[ProcessRecord]) -> str:
    numbers = ", ".join(str(record.pid) for record in records)
    return f"{count_processes(len(records))} ({numbers}) {'has' if len(records) == 1 else 'have'}"


def hint_left(paths: LocalPaths, uids: Collection[str]) -> None:
    """Say what goes on running, when nobody will end it by itself."""
    left = [record for record in find_living(paths) if record.pod_uid in uids]
    if left and running_pid(paths) is None:
        terminal.hint(f"{_name(left)} not ended, as the daemon is not running: slm up, or slm down")


async def hint_users(cluster: SqliteCluster, gone: Sequence[ObjectKey]) -> None:
    """Say which objects still name those that were deleted."""
    for kind in ("QuantJob", "InferenceService"):
        for each in await cluster.list(kind):
            user = key_of(each)
            for key in sorted(named_by(user, each).intersection(gone)):
                terminal.hint(f"{display_name(user)} needs {display_name(key)}, and stays as it is until that is back")


@app.command(cls=Command, epilog=EPILOG)
def delete(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KIND [NAME...]", show_default=False, autocompletion=complete_objects)
    ] = None,
    filename: Files = None,
    kustomize: Kustomize = None,
    recursive: Recursive = False,
    selector: Selector = "",
    everything: Annotated[bool, typer.Option("--all", help="All objects of the kind in the namespace.")] = False,
    namespace: Namespace = "",
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="Absent objects are fine.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the processes have ended.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Longest wait, seconds.")] = 90.0,
    _quiet: Quiet = False,
) -> None:
    """Delete objects and what they own.

    Exits with 3 when a named object does not exist; the others are deleted all the same.

    Their processes may finish the answers under way and are then ended: by the daemon, or, when none runs and
    the command waits, by the command. The store keeps the bytes until `slm gc`.

    Examples:
      slm delete slmsvc chat
      slm delete slmmodel/qwen quantjob/qwen-q4
      slm delete -k examples/demo
      slm delete qj -l team=search
      slm delete qj --all

    """
    if words and (filename or kustomize):
        raise CommandFailed("Name objects as KIND NAME, or manifests with -f or -k: one of the two.", USAGE)
    place = namespace_of(namespace)
    selection = parse_doomed(words or [], place, selector, everything=everything)
    if not words:
        documents = read_wanted(filename, kustomize, place, recursive=recursive)
        selection = Selection(place, keys=[document.key for document in documents])

    async def work() -> list[ObjectKey]:
        async with open_cluster() as cluster:
            deadline = asyncio.get_running_loop().time() + timeout
            present, missing = await find_doomed(cluster, selection)
            if selection.kinds and not present:
                terminal.hint(f"no {selection}")
            uids: set[str] = set()
            for key in present:
                uids |= await find_pods(cluster, key)
                await cluster.delete(key)
                terminal.say(f"{display_name(key)} deleted")
            await hint_users(cluster, present)
            if wait:
                await await_ended(local_paths(), cluster, uids, deadline)
            else:
                hint_left(local_paths(), uids)
            return missing

    missing = asyncio.run(work())
    if missing and not ignore_not_found:
        raise NotFound("\n       ".join(map(describe_absence, missing)))
