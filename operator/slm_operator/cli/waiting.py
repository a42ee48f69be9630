"""``slm wait``: until a condition holds or an object is gone."""

import asyncio
import re
from dataclasses import dataclass
from typing import Annotated

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.command import Command
from slm_operator.cli.completing import complete_target
from slm_operator.cli.exits import EPILOG, TIMEOUT, USAGE, CommandFailed
from slm_operator.cli.session import (
    NO_DAEMON,
    Namespace,
    condition_of,
    display_name,
    ensure_daemon,
    local_paths,
    namespace_of,
    open_cluster,
    parse_keys,
    require,
)
from slm_operator.cli.terminal import Quiet, terminal
from slm_operator.local.lifecycle import running_pid
from slm_operator.ports import Manifest, ObjectKey

app = typer.Typer()
POLL_SECONDS = 0.1
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Goal:
    """What is waited for; an empty condition means that the object is gone."""

    condition: str
    status: str

    def __str__(self) -> str:
        return f"condition {self.condition}={self.status}" if self.condition else "deletion"


def parse_goal(text: str) -> Goal:
    """``delete`` or ``condition=NAME[=STATUS]``."""
    if text == "delete":
        return Goal("", "")
    match = re.fullmatch(r"condition=(\w+)(?:=(true|false|unknown))?", text, re.IGNORECASE)
    if match is None:
        raise CommandFailed(f"--for takes delete or condition=NAME[=STATUS], not {text!r}.", USAGE)
    return Goal(match[1], (match[2] or "True").capitalize())


def parse_duration(text: str) -> float:
    """Seconds of ``30``, ``30s``, ``5m`` or ``1h30m``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise CommandFailed(f"A duration is written as 30s, 5m or 1h30m, not {text!r}.", USAGE)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def is_reached(manifest: Manifest | None, goal: Goal) -> bool:
    """Whether the goal holds, for the current spec and not an older one."""
    if manifest is None or not goal.condition:
        return manifest is None and not goal.condition
    found = condition_of(manifest, goal.condition)
    generation = manifest["metadata"].get("generation", 0)
    return found.get("status") == goal.status and found.get("observedGeneration", generation) >= generation


def describe_state(manifest: Manifest | None, goal: Goal) -> str:
    """Why the goal is not reached, in words."""
    if manifest is None:
        return "it does not exist"
    found = condition_of(manifest, goal.condition or "Ready")
    if not found:
        return "nothing has looked at it yet"
    return f"{found['type']} is {found['status']} ({found['reason']}): {found.get('message', '')}".rstrip(": ")


async def await_goal(cluster: SqliteCluster, key: ObjectKey, goal: Goal, deadline: float) -> None:
    """Return once the goal is reached; raises NotFound when the object is absent, CommandFailed TIMEOUT."""
    while True:
        manifest = await (require(cluster, key) if goal.condition else cluster.get(key))
        if is_reached(manifest, goal):
            return
        if asyncio.get_running_loop().time() >= deadline:
            hint = f"; {NO_DAEMON}" if running_pid(local_paths()) is None else ""
            state = describe_state(manifest, goal)
            raise CommandFailed(f"Timed out waiting for {goal} of {display_name(key)}: {state}{hint}", TIMEOUT)
        await asyncio.sleep(POLL_SECONDS)


@app.command(cls=Command, epilog=EPILOG)
def wait(
    words: Annotated[list[str], typer.Argument(metavar="KIND/NAME...", autocompletion=complete_target)],
    target: Annotated[str, typer.Option("--for", metavar="GOAL", help="condition=NAME[=STATUS] or delete.")],
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="Longest wait for all together, such as 30s or 10m.")
    ] = "30s",
    namespace: Namespace = "",
    _quiet: Quiet = False,
) -> None:
    """Wait until a condition holds or an object is gone.

    Starts the daemon when it is not running: without it nothing happens, and statuses are of the past.

    Examples:
      slm wait --for=condition=Ready slmsvc/qwen --timeout 10m
      slm wait --for=condition=Succeeded qj/one qj/two --timeout 1h
      slm wait --for=delete slmsvc/qwen

    """
    goal = parse_goal(target)
    seconds = parse_duration(timeout)
    keys = parse_keys(words, namespace_of(namespace))

    async def work() -> None:
        async with open_cluster() as cluster:
            if goal.condition:
                for key in keys:
                    await require(cluster, key)
                # Without a daemon a status only tells how things once were.
                ensure_daemon()
            deadline = asyncio.get_running_loop().time() + seconds
            for key in keys:
                await await_goal(cluster, key, goal, deadline)
                terminal.say(f"{display_name(key)} {'condition met' if goal.condition else 'deleted'}")

    asyncio.run(work())
