"""``slm logs``: what a pod's process printed."""

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from slm_contract.results import Progress
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.command import Command
from slm_operator.cli.completing import complete_target
from slm_operator.cli.exits import EPILOG, NOT_FOUND, USAGE, CommandFailed
from slm_operator.cli.session import (
    Namespace,
    display_name,
    find_kind,
    local_paths,
    namespace_of,
    open_cluster,
    require,
)
from slm_operator.core.steps import describe_progress
from slm_operator.ports import Manifest, ObjectKey

app = typer.Typer()
POLL_SECONDS = 0.2
ENDED = frozenset({"Succeeded", "Failed"})


def log_file(folder: Path, pod: ObjectKey) -> Path:
    """Log of a pod: all its restarts append to one file."""
    return folder / f"{pod.namespace}_{pod.name}" / "0.log"


async def find_pod(cluster: SqliteCluster, target: str, namespace: str) -> Manifest:
    """The pod of that name, or the newest pod of the KIND/NAME; raises NotFound or CommandFailed."""
    kind, _, name = target.rpartition("/")
    key = ObjectKey(find_kind(kind or "pod"), namespace, name)
    manifest = await require(cluster, key)
    if key.kind == "Pod":
        return manifest
    if key.kind in ("Deployment", "Service"):
        raise CommandFailed(f"{display_name(key)} has no log: name the InferenceService or a pod.", USAGE)
    by_owner = {"slm.dev/kind": key.kind, "slm.dev/name": key.name}
    labels = {"job-name": key.name} if key.kind == "Job" else by_owner
    pods = await cluster.list("Pod", namespace, labels)
    if not pods:
        message = f"{display_name(key)} has no pod: it waits for something, or its pods were removed; see slm describe."
        raise CommandFailed(message, NOT_FOUND)
    return max(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), _version(pod)))


def _version(pod: Manifest) -> int:
    return int(pod["metadata"].get("resourceVersion", "0"))


@app.command(cls=Command, epilog=EPILOG)
def logs(
    target: Annotated[str, typer.Argument(metavar="KIND/NAME|POD", autocompletion=complete_target)],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the pod ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print progress as the JSON lines it is written in.")] = False,
    tail: Annotated[int, typer.Option(metavar="LINES", help="Only that many last lines; -1 for all.")] = -1,
    namespace: Namespace = "",
) -> None:
    """Print the log of an object's newest pod.

    Examples:
      slm logs slmsvc/qwen -f
      slm logs quantjob/qwen-q4 --tail 20
      slm logs qwen-q4-convert-1a2b3c4d-x7f9k

    """

    async def work() -> None:
        async with open_cluster() as cluster:
            pod = await find_pod(cluster, target, namespace_of(namespace))
            key = ObjectKey("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
            path = log_file(local_paths().logs, key)
            if not path.exists() and not follow:
                raise CommandFailed(f"Pod {key.name} has printed nothing yet.", NOT_FOUND)
            printer = LogPrinter(path, raw=raw)
            printer.print_tail(tail, last=not follow)
            if follow:
                await _follow(cluster, key, printer)

    asyncio.run(work())


async def _follow(cluster: SqliteCluster, key: ObjectKey, printer: "LogPrinter") -> None:
    """Print what is appended until the pod has ended."""
    while True:
        # The state is read before the file, so that a last line written in between is still printed.
        pod = await cluster.get(key)
        ended = pod is None or (pod.get("status") or {}).get("phase") in ENDED
        printer.print_more(last=ended)
        if ended:
            return
        await asyncio.sleep(POLL_SECONDS)


def render_line(line: str) -> str:
    """A step's progress as people read it; any other line as it is."""
    if not line.startswith("{"):
        return line
    try:
        progress = Progress.model_validate_json(line)
    except ValidationError:
        return line
    return f"{progress.step}: {describe_progress(progress)}"


class LogPrinter:
    """Prints a log file that may grow or be rotated."""

    def __init__(self, path: Path, *, raw: bool) -> None:
        self._path, self._raw = path, raw
        self._position = 0

    def print_tail(self, lines: int, *, last: bool) -> None:
        """Print the last lines, all when negative."""
        if self._path.exists():
            with self._path.open("rb") as file:
                data = b"".join(file if lines < 0 else deque(file, maxlen=lines))
                self._position = file.tell() - self._print(data, last=last)

    def print_more(self, *, last: bool) -> None:
        """Print what was appended since."""
        if self._path.exists():
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                # A rotation copies the file aside and empties it.
                file.seek(self._position if self._position <= size else 0)
                data = file.read()
                self._position = file.tell() - self._print(data, last=last)

    def _print(self, data: bytes, *, last: bool) -> int:
        """Print; returns the bytes held back: progress that is still being written, unless this is the end."""
        begun = data.rpartition(b"\n")[2]
        held = len(begun) if begun.startswith(b"{") and not self._raw and not last else 0
        text = data[: len(data) - held].decode(errors="replace")
        sys.stdout.write(text if self._raw else "\n".join(map(render_line, text.split("\n"))))
        sys.stdout.flush()
        return held
