"""A command group that imports a command's module only when that command runs: ``slm --help`` stays instant."""

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from slm_operator.cli.command import name_no_flag_value, tidy_help
from slm_operator.cli.exits import USAGE, CommandFailed

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
    "audit": ("auditing", "Say whether an audit of the gateway is as it was written."),
    "completion": ("completion", "Print the script that completes commands, kinds and names in a shell."),
    "version": ("daemon", "Print the version."),
}
"""Command to the module of its code and its summary, which is the first line of its help."""


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
        return typer.main.get_group(app).commands[cmd_name]

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of ``slm`` itself."""
        return name_no_flag_value(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first word; raises CommandFailed USAGE with the one that may be meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, COMMANDS, 1)
            hint = f"did you mean slm {near[0]}?" if near else "slm --help lists what there is."
            raise CommandFailed(f"There is no command {name!r}: {hint}", USAGE)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without importing any command."""
        self.help = tidy_help(self.help or "")
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
