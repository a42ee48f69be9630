"""``slm ps``: what runs on this machine now."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated

import psutil
import typer

from slm_operator.adapters.process_table import ProcessRecord
from slm_operator.cli.exits import EPILOG
from slm_operator.cli.human import format_duration
from slm_operator.cli.session import Namespace, local_paths, namespace_of, open_cluster
from slm_operator.cli.tables import render_rows
from slm_operator.cli.terminal import terminal
from slm_operator.core.quantity import format_bytes
from slm_operator.local.leftovers import read_records
from slm_operator.ports import Manifest

app = typer.Typer()


@dataclass(frozen=True)
class Usage:
    """What a process and its descendants use."""

    memory_bytes: int
    age_seconds: float


SAME_START_SECONDS = 1.0
"""Two readings of one process's start time differ by less; a process id that was given anew differs by more."""


def measure(record: ProcessRecord) -> Usage | None:
    """Resident memory and age of a process and its descendants; None when it has ended."""
    try:
        leader = psutil.Process(record.pid)
        if abs(leader.create_time() - record.created) > SAME_START_SECONDS:
            return None
        family = [leader, *leader.children(recursive=True)]
        memory = sum(_resident(member) for member in family)
        return Usage(memory, time.time() - leader.create_time())
    except psutil.Error:
        return None


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


DELETED = "(deleted)"
"""Owner of a process whose pod object is gone: it is being ended, or waits for a daemon that does."""


def build_row(record: ProcessRecord, pod: Manifest | None) -> list[str] | None:
    """Cells of one process; None when it has ended."""
    usage = measure(record)
    if usage is None:
        return None
    labels = pod["metadata"].get("labels", {}) if pod else {}
    owner = f"{labels.get('slm.dev/kind', '').lower()}/{labels.get('slm.dev/name', '')}"
    return [
        record.pod,
        owner if pod else DELETED,
        labels.get("slm.dev/step", ""),
        str(record.pid),
        str(record.port or ""),
        format_bytes(usage.memory_bytes),
        format_duration(usage.age_seconds),
    ]


@app.command(epilog=EPILOG)
def ps(
    namespace: Namespace = "",
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Of every namespace.")] = False,
) -> None:
    """List running engines and jobs.

    A process whose owner was deleted is listed until it has ended.

    Examples:
      slm ps
      slm ps -A

    """
    place = "" if all_namespaces else namespace_of(namespace)
    records = [record for record in read_records(local_paths()) if record.pid and place in ("", record.namespace)]

    async def work() -> dict[str, Manifest]:
        async with open_cluster() as cluster:
            return {pod["metadata"]["uid"]: pod for pod in await cluster.list("Pod", place)}

    pods = asyncio.run(work())
    rows = [row for record in records if (row := build_row(record, pods.get(record.pod_uid)))]
    if rows:
        terminal.result(render_rows([["POD", "OWNER", "STEP", "PID", "PORT", "MEMORY", "AGE"], *rows]))
    else:
        terminal.hint("nothing is running")
