"""How a command shows itself: its usage line as the reference writes it, prose that flows, examples line by line."""

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

EXAMPLES = "Examples:\n"
VERBATIM = "\b\n"
"""Tells the help formatter to keep the lines of the paragraph that follows."""


def tidy_help(text: str) -> str:
    """A docstring as help: each paragraph one line, which the terminal breaks where it must, and examples as written.

    Rich keeps the line breaks of all paragraphs but the first, so that a narrow terminal would break twice.
    """
    paragraphs = inspect.cleandoc(text.replace(VERBATIM, "")).split("\n\n")
    return "\n\n".join(VERBATIM + each if each.startswith(EXAMPLES) else each.replace("\n", " ") for each in paragraphs)


def describe_argument(param: Any) -> str:
    """An argument as it stands in a usage line; empty for an option."""
    if param.param_type_name != "argument":
        return ""
    word = str(param.metavar or param.name.upper())
    return word if param.required or word.startswith("[") else f"[{word}]"


def name_no_flag_value(params: list[Any]) -> list[Any]:
    """The parameters, of which flags show no type: they take no value, and ``<bool>`` would ask for one."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def at_least(minimum: float) -> Callable[[float | None], float | None]:
    """A check of an option's value; ``min=`` would print the range as a formula."""

    def check(value: float | None) -> float | None:
        if value is not None and value < minimum:
            raise typer.BadParameter(f"it must be {minimum:g} or more, not {value:g}.")
        return value

    return check


class Command(TyperCommand):
    """A command of ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = tidy_help(self.help or "")

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, the one for help too."""
        return name_no_flag_value(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments by their own words, then the options."""
        del ctx
        return [*filter(None, map(describe_argument, self.params)), "[OPTIONS]"]
