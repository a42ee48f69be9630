"""``slm wait``: until a condition holds or an object is gone."""

import asyncio
import re
from typing import Annotated

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.command import Command
from slm_operator.cli.completing import complete_goal, complete_target
from slm_operator.cli.exits import EPILOG, TIMEOUT, USAGE, CommandFailed
from slm_operator.cli.goals import (
    Goal,
    check_condition,
    describe_stall,
    describe_state,
    is_reached,
    is_stalled,
    parse_goal,
)
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
from slm_operator.ports import ObjectKey

app = typer.Typer()
POLL_SECONDS = 0.1
OLD_NEWS_SECONDS = 1.0
"""How long a stall that stood before the wait does not count: it may be being looked at again."""
NO_USE = "Stalled: waiting does not help; --keep-waiting waits all the same"
GOAL_HELP = "condition=NAME, condition=NAME=STATUS, or delete."
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of ``30``, ``30s``, ``5m`` or ``1h30m``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise CommandFailed(f"A duration is written as 30s, 5m or 1h30m, not {text!r}.", USAGE)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


async def await_goal(
    cluster: SqliteCluster, key: ObjectKey, goal: Goal, deadline: float, *, keep_waiting: bool = False
) -> None:
    """Return once the goal is reached.

    Raises NotFound when the object is absent, CommandFailed when it is stalled, CommandFailed TIMEOUT.
    """
    clock = asyncio.get_running_loop().time
    old_news = clock() + OLD_NEWS_SECONDS
    before = condition_of(await cluster.get(key) or {}, "Stalled")
    patient = keep_waiting or goal.condition.lower() in ("", "stalled")
    while True:
        manifest = await (require(cluster, key) if goal.condition else cluster.get(key))
        if is_reached(manifest, goal):
            return
        # What stood before may just have been mended, by an apply of what the object refers to.
        news = clock() >= old_news or condition_of(manifest or {}, "Stalled") != before
        if manifest and news and not patient and is_stalled(manifest):
            raise CommandFailed(f"{describe_stall(key, manifest)} ({NO_USE})")
        if clock() >= deadline:
            hint = f"; {NO_DAEMON}" if running_pid(local_paths()) is None else ""
            state = describe_state(manifest, goal)
            raise CommandFailed(f"Timed out waiting for {goal} of {display_name(key)}: {state}{hint}", TIMEOUT)
        await asyncio.sleep(POLL_SECONDS)


@app.command(cls=Command, epilog=EPILOG)
def wait(
    words: Annotated[list[str], typer.Argument(metavar="KIND/NAME...", autocompletion=complete_target)],
    target: Annotated[str, typer.Option("--for", metavar="GOAL", help=GOAL_HELP, autocompletion=complete_goal)],
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="Longest wait for all together, such as 30s or 10m.")
    ] = "30s",
    keep_waiting: Annotated[bool, typer.Option("--keep-waiting", help="Wait for a stalled object too.")] = False,
    namespace: Namespace = "",
    _quiet: Quiet = False,
) -> None:
    """Wait until a condition holds or an object is gone.

    Starts the daemon when it is not running: without it nothing happens, and statuses are of the past. Exits with 4
    when the time is up, and with 1 at once when an object is Stalled, for then somebody must change something.

    Examples:
      slm wait --for=condition=Ready slmsvc/qwen --timeout 10m
      slm wait --for=condition=Succeeded qj/one qj/two --timeout 1h
      slm wait --for=delete slmsvc/qwen

    """
    goal = parse_goal(target)
    seconds = parse_duration(timeout)
    keys = parse_keys(words, namespace_of(namespace))
    for key in keys:
        check_condition(goal, key)

    async def work() -> None:
        async with open_cluster() as cluster:
            if goal.condition:
                for key in keys:
                    await require(cluster, key)
                # Without a daemon a status only tells how things once were.
                ensure_daemon()
            deadline = asyncio.get_running_loop().time() + seconds
            for key in keys:
                await await_goal(cluster, key, goal, deadline, keep_waiting=keep_waiting)
                terminal.say(f"{display_name(key)} {'condition met' if goal.condition else 'deleted'}")

    asyncio.run(work())
