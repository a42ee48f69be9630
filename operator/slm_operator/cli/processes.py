"""``slm ps``: what runs on this machine now."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

import psutil
import typer

from slm_operator.adapters.process_table import ProcessRecord
from slm_operator.cli.command import Command
from slm_operator.cli.exits import EPILOG
from slm_operator.cli.forms import Form, FormOption, render_items
from slm_operator.cli.human import format_duration
from slm_operator.cli.session import Namespace, local_paths, namespace_of, open_cluster
from slm_operator.cli.tables import render_rows
from slm_operator.cli.terminal import terminal
from slm_operator.core.quantity import format_bytes
from slm_operator.local.leftovers import read_records
from slm_operator.local.lifecycle import running_pid
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


UNATTENDED = "the daemon is not running, so nobody looks after these: slm up, or slm down to end them"
DELETED = "(deleted)"
"""Owner of a process whose pod object is gone: it is being ended, or waits for a daemon that does."""


def describe_process(record: ProcessRecord, pod: Manifest | None) -> dict[str, Any] | None:
    """What is known about one process; None when it has ended. The owner is empty when the pod object is gone."""
    usage = measure(record)
    if usage is None:
        return None
    labels = pod["metadata"].get("labels", {}) if pod else {}
    return {
        "namespace": record.namespace,
        "pod": record.pod,
        "owner": f"{labels.get('slm.dev/kind', '').lower()}/{labels.get('slm.dev/name', '')}" if pod else "",
        "step": labels.get("slm.dev/step", ""),
        "processId": record.pid,
        "port": record.port or None,
        "memoryBytes": usage.memory_bytes,
        "ageSeconds": int(usage.age_seconds),
    }


def build_row(process: dict[str, Any]) -> list[str]:
    """Cells of one process."""
    return [
        process["pod"],
        process["owner"] or DELETED,
        process["step"],
        str(process["processId"]),
        str(process["port"] or ""),
        format_bytes(process["memoryBytes"]),
        format_duration(process["ageSeconds"]),
    ]


@app.command(cls=Command, epilog=EPILOG)
def ps(
    output: FormOption = Form.TABLE,
    namespace: Namespace = "",
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Of every namespace.")] = False,
) -> None:
    """List running engines and jobs.

    A process whose owner was deleted is listed until it has ended.

    Examples:
      slm ps
      slm ps -A
      slm ps -o json

    """
    place = "" if all_namespaces else namespace_of(namespace)
    records = [record for record in read_records(local_paths()) if record.pid and place in ("", record.namespace)]

    async def work() -> dict[str, Manifest]:
        async with open_cluster() as cluster:
            return {pod["metadata"]["uid"]: pod for pod in await cluster.list("Pod", place)}

    pods = asyncio.run(work())
    found = [each for record in records if (each := describe_process(record, pods.get(record.pod_uid)))]
    if output is not Form.TABLE:
        terminal.result(render_items(found, output))
    elif found:
        header = ["POD", "OWNER", "STEP", "PID", "PORT", "MEMORY", "AGE"]
        terminal.result(render_rows([header, *map(build_row, found)]))
        if running_pid(local_paths()) is None:
            terminal.hint(UNATTENDED)
    else:
        terminal.hint("nothing is running")
