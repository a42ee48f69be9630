"""``slm completion``: the script that makes a shell complete commands, kinds and names."""

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_shared import get_completion_script

from slm_operator.cli.command import Command
from slm_operator.cli.exits import EPILOG
from slm_operator.cli.terminal import terminal

app = typer.Typer()


class Shell(StrEnum):
    """Shells we know."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(cls=Command, epilog=EPILOG)
def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish")]) -> None:
    """Print the script that completes commands, kinds and names in a shell.

    Load it in the shell's start-up file, .bashrc or .zshrc (there after compinit), or write it into fish's folder
    of completions.

    Examples:
      source <(slm completion bash)
      source <(slm completion zsh)
      slm completion fish > ~/.config/fish/completions/slm.fish

    """
    script = get_completion_script(prog_name="slm", complete_var="_SLM_COMPLETE", shell=shell.value)
    terminal.result(script)
