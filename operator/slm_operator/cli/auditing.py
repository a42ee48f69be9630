"""``slm audit``: whether an audit of the gateway is as it was written."""

from pathlib import Path
from typing import Annotated

import typer

from slm_operator.cli.command import Command
from slm_operator.cli.exits import EPILOG, CommandFailed
from slm_operator.cli.forms import Form, FormOption, render_form
from slm_operator.cli.terminal import terminal
from slm_operator.gateway.audit import verify

app = typer.Typer()


@app.command(cls=Command, epilog=EPILOG)
def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What SLM_GATEWAY_AUDIT named.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Say whether an audit of the gateway is as it was written.

    Finds lines that were changed, taken out or put in. Prints the number of lines and the hash of the last one: keep
    that elsewhere and compare it later, since lines that are taken off at the end can be told by nothing else.

    Examples:
      slm audit audit.jsonl
      slm audit audit.jsonl -o json

    """
    with file.open("rb") as lines:
        found = verify(lines)
    if found.problem:
        kept = "no line before it is" if not found.lines else f"the {found.lines} before it are"
        raise CommandFailed(f"{file}: {found.problem}; {kept} as written.")
    if output is Form.TABLE:
        count = "1 line" if found.lines == 1 else f"{found.lines} lines"
        terminal.result(f"{count}, all as written; the last one's hash: {found.last}")
    else:
        terminal.result(render_form({"lines": found.lines, "last": found.last}, output))
