import inspect
from typing import Any

import pytest
import typer

from slm_operator.cli import exits, reference
from slm_operator.cli.exits import CommandFailed, exit_code
from slm_operator.cli.lazy import COMMANDS
from slm_operator.cli.main import app
from slm_operator.cli.tables import build_rows, render_rows
from slm_operator.cli.terminal import printable
from slm_operator.errors import ClusterUnavailable, InvalidManifest, NotFound, SlmError


def command(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.get_command(None, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_summary_an_example_and_the_exit_codes(name: str) -> None:
    found = command(name)
    text = inspect.cleandoc(found.help)
    assert text.splitlines()[0] == COMMANDS[name][1]
    assert f"slm {name}" in text.partition("Examples:\n")[2]
    assert found.epilog == exits.EPILOG


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_the_reference_explain_themselves(name: str) -> None:
    assert all(param.help for param in command(name).params if param.param_type_name == "option")
    assert f"## slm {name}\n" in reference.render()


def test_the_epilog_and_the_reference_name_every_exit_code() -> None:
    codes = {value for key, value in vars(exits).items() if key.isupper() and isinstance(value, int)}
    page = reference.render()
    for code in codes:
        assert f"{code} " in exits.EPILOG
        assert f"| {code} |" in page


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidManifest("x"), 65),
        (NotFound("x"), 3),
        (ClusterUnavailable("x"), 1),
        (CommandFailed("x", exits.TIMEOUT), 4),
    ],
)
def test_every_error_has_its_exit_code(error: SlmError, code: int) -> None:
    assert exit_code(error) == code


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\x9b\tc\nd é") == "a\\x1b[2Jb\\r\\x9b\tc\nd é"


def test_a_table_leaves_out_what_is_not_known_yet() -> None:
    item = {
        "kind": "SLMModel",
        "metadata": {"name": "tiny", "namespace": "team"},
        "spec": {},
        "status": {"parameters": 0, "conditions": [{"type": "Ready", "status": "False", "reason": "Resolving"}]},
    }
    lines = render_rows(build_rows("SLMModel", [item], wide=False, with_namespace=True)).splitlines()
    assert lines[0].split() == ["NAMESPACE", "NAME", "READY", "REASON", "CLASS", "PARAMETERS", "LICENSE", "AGE"]
    assert lines[1].split() == ["team", "tiny", "False", "Resolving"]
