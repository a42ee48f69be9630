"""``slm up``, ``down``, ``status`` and ``version``: the daemon as a whole."""

import asyncio
import os
import sys
from collections import Counter
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer

from slm_operator.api.registry import INFOS
from slm_operator.cli.command import Command
from slm_operator.cli.exits import EPILOG, NOT_RUNNING
from slm_operator.cli.forms import Form, FormOption, render_form
from slm_operator.cli.human import count_processes
from slm_operator.cli.session import condition_of, load_settings, local_paths, open_cluster
from slm_operator.cli.tables import render_rows
from slm_operator.cli.terminal import Quiet, terminal
from slm_operator.local.gateway_keeper import await_gateway, find_gateway, gateway_url
from slm_operator.local.leftovers import end_leftovers, find_living
from slm_operator.local.lifecycle import DAEMON_COMMAND, log_tail, running_pid, start_daemon, stop_daemon
from slm_operator.local.paths import LocalPaths

GATEWAY_SECONDS = 5.0
"""Longest wait of `slm up` for the gateway, which the daemon starts."""
app = typer.Typer()


@app.command(cls=Command, epilog=EPILOG)
def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay in this terminal; Ctrl-C ends it.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Start the daemon that works on the objects.

    Examples:
      slm up
      slm up --foreground

    """
    settings = load_settings()
    paths = LocalPaths.of(settings)
    already = running_pid(paths) is not None
    if foreground and not already:
        sys.stdout.flush()
        os.execv(DAEMON_COMMAND[0], DAEMON_COMMAND)  # noqa: S606 - becomes the daemon, so signals reach it
    pid = start_daemon(paths, settings.start_seconds)
    if already:
        terminal.say(f"the daemon is running already (process {pid})")
    else:
        terminal.say(f"the daemon is running (process {pid}); its log: {paths.daemon_log}")
    if settings.gateway:
        _tell_gateway(paths, settings.gateway_port)


@app.command(cls=Command, epilog=EPILOG)
def down(
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave engines and jobs running.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Stop the engines and the daemon.

    What a daemon that was killed left running is ended too. Objects stay: `slm up` brings everything back.

    Examples:
      slm down
      slm down --keep-running && slm up

    """
    settings = load_settings()
    paths = LocalPaths.of(settings)
    stopped = stop_daemon(paths, keep_engines=keep_running, timeout_seconds=settings.stop_seconds)
    fate = ""
    if keep_running and (stopped or find_living(paths)):
        fate = "; engines and jobs go on"
    elif not stopped and (ended := asyncio.run(end_leftovers(paths, settings))):
        fate = f"; {count_processes(ended)} that it had left {'has' if ended == 1 else 'have'} been ended"
    terminal.say(f"the daemon {'has stopped' if stopped else 'was not running'}{fate}")


@app.command(cls=Command, epilog=EPILOG)
def status(output: FormOption = Form.TABLE) -> None:
    """Say whether the daemon runs and how the objects are.

    Exits with 5 when the daemon is not running.

    Examples:
      slm status
      slm status || slm up
      slm status -o json

    """
    paths = local_paths()
    pid = running_pid(paths)
    counts = asyncio.run(_count()) if paths.database.exists() else []
    if output is Form.TABLE:
        lines = {"daemon": describe_daemon(pid), "gateway": describe_gateway(paths), "state": paths.state}
        terminal.result("\n".join(f"{name + ':':8} {told}" for name, told in {**lines, "store": paths.store}.items()))
    else:
        daemon = {"running": bool(pid), "processId": pid or None}
        folders = {"state": str(paths.state), "store": str(paths.store)}
        found = find_gateway(paths)
        gateway = {"url": gateway_url(found) if found else None, "processId": found.pid if found else None}
        terminal.result(render_form({"daemon": daemon, "gateway": gateway, **folders, "objects": counts}, output))
    if counts and output is Form.TABLE:
        rows = [[name.upper() for name in counts[0]], *([str(cell) for cell in row.values()] for row in counts)]
        terminal.result("\n" + render_rows(rows))
    if pid is None:
        raise typer.Exit(NOT_RUNNING)


def describe_daemon(pid: int | None) -> str:
    """State of the daemon in words, from ``running_pid``."""
    if pid is None:
        return "not running (start it with slm up)"
    return f"running, process {pid}" if pid else "starting"


def _tell_gateway(paths: LocalPaths, port: int) -> None:
    """Say where the gateway answers, or why it does not."""
    found = await_gateway(paths, GATEWAY_SECONDS)
    if found is None:
        terminal.hint(f"the gateway does not answer yet: {log_tail(paths.gateway_log)}")
        return
    terminal.say(f"the gateway answers at {gateway_url(found)}")
    if port not in (0, found.port):
        terminal.hint(f"it keeps its port for as long as it runs: slm down && slm up takes {port}")


def describe_gateway(paths: LocalPaths) -> str:
    """State of the gateway in words."""
    found = find_gateway(paths)
    if found is not None:
        return f"{gateway_url(found)}, process {found.pid}"
    return (
        "switched off (SLM_GATEWAY)" if not load_settings().gateway else f"not running (its log: {paths.gateway_log})"
    )


async def _count() -> list[dict[str, Any]]:
    """How many objects of each kind there are, and how many of them meet each condition."""
    rows = []
    async with open_cluster() as cluster:
        for kind in INFOS:
            items = await cluster.list(kind)
            names = ("Ready", "Reconciling", "Stalled")
            true = Counter(name for item in items for name in names if condition_of(item, name).get("status") == "True")
            if items:
                rows.append({"kind": kind, **{name.lower(): true[name] for name in names}, "total": len(items)})
    return rows


@app.command(cls=Command, epilog=EPILOG)
def version() -> None:
    """Print the version.

    Examples:
      slm version

    """
    terminal.result(f"slm {installed_version('slm-operator')}")
