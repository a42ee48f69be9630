"""Waiting with something to look at: bars on a terminal, a line per change elsewhere."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.exits import NOT_RUNNING, TIMEOUT, CommandFailed
from slm_operator.cli.goals import Goal, describe_stall, describe_state, is_reached, is_stalled
from slm_operator.cli.session import condition_of, display_name, local_paths, require
from slm_operator.cli.terminal import terminal
from slm_operator.core.quantity import format_bytes
from slm_operator.local.lifecycle import running_pid
from slm_operator.ports import Manifest, ObjectKey

POLL_SECONDS = 0.2
READY = Goal("Ready", "True")
OLD_NEWS_SECONDS = 3.0
"""How long a failure that stood before we asked does not count: it is being looked at again."""
LINES_PER_STEP = 4
"""Lines that one step prints at most where bars cannot be drawn."""


class Display:
    """Shows the progress of running steps."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, tuple[object, ...]] = {}

    def show(self, key: ObjectKey, manifest: Manifest, pods: Sequence[Manifest]) -> None:
        """Show where an object stands."""
        running = {pod["metadata"]["name"]: pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"}
        for name in [
            name for name in self._tasks if name.startswith(f"{key}|") and name[len(f"{key}|") :] not in running
        ]:
            self._finish(name)
        for name, pod in running.items():
            if progress := pod["status"].get("progress"):
                self._show_step(f"{key}|{name}", progress)
        state = condition_of(manifest, "Ready")
        self._say(str(key), (state.get("reason"),), f"{display_name(key)}: {state.get('reason', 'Pending')}")

    def _show_step(self, name: str, progress: dict[str, Any]) -> None:
        done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
        text, amount = str(progress["message"]), format_amount(done, total, str(progress.get("unit", "")))
        if self._bars is None:
            share = done * LINES_PER_STEP // total if total else 0
            self._say(name, (text, share), f"  {text}{': ' if amount else ''}{amount}")
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(text, total=None, amount="")
        task = self._tasks[name]
        speed = self._bars.tasks[self._bars.task_ids.index(task)].speed
        rate = f" {format_bytes(speed)}/s" if speed and progress.get("unit") == "bytes" else ""
        self._bars.update(task, description=text, completed=done, total=total or None, amount=amount + rate)

    def _finish(self, name: str) -> None:
        task = self._tasks.pop(name)
        if self._bars is not None:
            self._bars.remove_task(task)

    def _say(self, about: str, state: tuple[object, ...], text: str) -> None:
        """Print a line when the state differs from the last one printed."""
        if self._said.get(about) == state:
            return
        self._said[about] = state
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            terminal.hint(text)


def format_amount(done: int, total: int, unit: str) -> str:
    """``12.0 MiB of 1.11 GiB`` or ``3 of 8 tensors``; empty when nothing is counted."""
    if not total:
        return ""
    if unit == "bytes":
        return f"{format_bytes(done)} of {format_bytes(total)}"
    return f"{done} of {total} {unit}".rstrip()


@contextmanager
def open_display() -> Iterator[Display]:
    """Bars on a terminal, lines elsewhere."""
    if not terminal.draws():
        yield Display(None)
        return
    with build_bars(Console(stderr=True)) as bars:
        yield Display(bars)


def build_bars(console: Console, get_time: Callable[[], float] | None = None) -> Progress:
    """Bars with what is done, how fast, and how long it will take."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, get_time=get_time, transient=True)


async def await_ready(cluster: SqliteCluster, keys: Sequence[ObjectKey], timeout_seconds: float) -> None:
    """Return once the last object is Ready, showing the progress of all; the others are what it is made of.

    Raises CommandFailed when nothing more will happen by itself, when the daemon ends, or after the timeout.
    """
    clock = asyncio.get_running_loop().time
    deadline, old_news = clock() + timeout_seconds, clock() + OLD_NEWS_SECONDS
    before = [condition_of(await require(cluster, key), "Stalled") for key in keys]
    with open_display() as display:
        while True:
            manifests = [await require(cluster, key) for key in keys]
            for key, manifest in zip(keys, manifests, strict=True):
                labels = {"slm.dev/kind": key.kind, "slm.dev/name": key.name}
                display.show(key, manifest, await cluster.list("Pod", key.namespace, labels))
            if is_reached(manifests[-1], READY):
                return
            if clock() > old_news or [condition_of(item, "Stalled") for item in manifests] != before:
                check_stalled(keys, manifests)
            await _check_patience(cluster, keys[-1], deadline)
            await asyncio.sleep(POLL_SECONDS)


def check_stalled(keys: Sequence[ObjectKey], manifests: Sequence[Manifest]) -> None:
    """Raise CommandFailed with the first cause when the last object will not become Ready by itself."""
    stalled = [pair for pair in zip(keys, manifests, strict=True) if is_stalled(pair[1])]
    # A QuantJob that stalls late may have made what is served: the service itself says whether it goes on.
    if any(key.kind == "SLMModel" or key == keys[-1] for key, _ in stalled):
        raise CommandFailed(describe_stall(*stalled[0]))


async def _check_patience(cluster: SqliteCluster, key: ObjectKey, deadline: float) -> None:
    paths = local_paths()
    if running_pid(paths) is None:
        raise CommandFailed(f"The daemon has ended; its log: {paths.daemon_log}", NOT_RUNNING)
    if asyncio.get_running_loop().time() > deadline:
        state = describe_state(await cluster.get(key), READY)
        raise CommandFailed(f"Timed out waiting for {display_name(key)}: {state}", TIMEOUT)
