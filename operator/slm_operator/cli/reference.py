"""``docs/reference/cli.md`` from the commands themselves."""

import inspect
import textwrap
from typing import Any

import typer

from slm_operator.cli import exits
from slm_operator.cli.command import VERBATIM, describe_argument
from slm_operator.cli.lazy import COMMANDS
from slm_operator.cli.main import app

LINE_LENGTH = 118
HEADER = """# The `slm` command

Generated from the commands' own help. `slm COMMAND --help` prints the same.
"""


def render() -> str:
    """The whole page as Markdown."""
    group: Any = typer.main.get_command(app)
    commands = [(name, group.get_command(None, name)) for name in COMMANDS]
    parts = [HEADER, _render_codes(), "## Commands\n"]
    parts += [f"- [`slm {name}`](#slm-{name}): {COMMANDS[name][1]}" for name in COMMANDS]
    parts += [f"\n{_render_command(name, command)}" for name, command in commands]
    return "\n".join(parts).rstrip() + "\n"


def _render_codes() -> str:
    """Table of exit codes, from the constants and the docstrings below them."""
    lines = inspect.getsource(exits).splitlines()
    rows = [
        f"| {line.rsplit('=', 1)[1].strip()} | {lines[index + 1].strip().strip(chr(34))} |"
        for index, line in enumerate(lines)
        if ": Final = " in line and line.rsplit("=", 1)[1].strip().isdigit()
    ]
    return "## Exit codes\n\n| code | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"


def _render_command(name: str, command: Any) -> str:
    """One command: usage, text, examples, arguments and options."""
    prose, _, examples = str(command.help or "").partition(VERBATIM)
    text = "\n\n".join(textwrap.fill(each, LINE_LENGTH) for each in prose.strip().split("\n\n"))
    title, _, example_lines = examples.partition("\n")
    usage = [part for param in command.params if (part := describe_argument(param))]
    parts = [f"## slm {name}\n", text, f"\n```\nslm {name} {' '.join([*usage, '[OPTIONS]'])}\n```\n"]
    parts.append(f"{title}\n\n```sh\n{inspect.cleandoc(example_lines)}\n```\n")
    options = [param for param in command.params if param.param_type_name == "option"]
    if options:
        parts.append("| option | meaning | default |\n|---|---|---|")
        parts += [_render_option(param) for param in options]
        parts.append("")
    return "\n".join(parts)


def _render_option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    shown = param.default not in (None, "", False, True) and not callable(param.default)
    default = f"`{getattr(param.default, 'value', param.default)}`" if shown else ""
    meaning = str(param.help or "").replace("|", "\\|")
    return f"| {names} | {meaning} | {default} |"
