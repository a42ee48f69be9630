"""A command group that imports a command's module only when that command runs: ``slm --help`` stays instant."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("serving", "Fetch, quantize and serve a model, then chat with it."),
    "pull": ("serving", "Fetch and verify a model into the store."),
    "stop": ("serving", "Stop the engines of a service; it keeps its place and its address."),
    "ps": ("processes", "List running engines and jobs."),
    "apply": ("writing", "Create or update the objects of manifests."),
    "diff": ("writing", "Show what apply would change."),
    "delete": ("deleting", "Delete objects and what they own."),
    "get": ("reading", "List objects or print them."),
    "describe": ("inspecting", "Show everything about objects: status, conditions, events."),
    "events": ("inspecting", "List what happened, oldest first."),
    "logs": ("logs", "Print the log of an object's newest pod."),
    "wait": ("waiting", "Wait until a condition holds or an object is gone."),
    "up": ("daemon", "Start the daemon that works on the objects."),
    "down": ("daemon", "Stop the engines and the daemon."),
    "status": ("daemon", "Say whether the daemon runs and how the objects are."),
    "doctor": ("doctor", "Check this machine and say what to mend."),
    "gc": ("collecting", "Remove from the store what no object refers to."),
    "completion": ("completion", "Print the script that completes commands, kinds and names in a shell."),
    "version": ("daemon", "Print the version."),
}
"""Command to the module of its code and its summary, which is the first line of its help."""


EXAMPLES = "Examples:\n"
VERBATIM = "\b\n"
"""Tells the help formatter to keep the lines of the paragraph that follows."""


def keep_lines(command: Any) -> Any:
    """The command, with its examples printed line by line rather than as one paragraph."""
    text = command.help or ""
    if VERBATIM not in text:
        command.help = text.replace(EXAMPLES, VERBATIM + EXAMPLES)
    return command


class LazyGroup(TyperGroup):
    """Knows names and summaries; loads a command when it is looked up to be run or explained."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order people meet them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or only its name and summary while the list of commands is printed."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        if self._listing:
            return TyperCommand(cmd_name, help=summary)
        app: typer.Typer = import_module(f"slm_operator.cli.{module}").app
        return keep_lines(typer.main.get_group(app).commands[cmd_name])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without importing any command."""
        keep_lines(self)
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete command names without importing any command."""
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False
