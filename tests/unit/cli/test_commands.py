import inspect
import re
from typing import Any

import pytest
import typer

from slm_operator.cli import exits, reference
from slm_operator.cli.command import VERBATIM
from slm_operator.cli.exits import CommandFailed, exit_code
from slm_operator.cli.lazy import COMMANDS
from slm_operator.cli.main import app, run
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
def test_help_reads_as_the_reference_does_and_names_values_by_words(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    usage = re.search(f"^slm {name}.*$", reference.render(), re.MULTILINE)
    assert usage
    assert f"Usage: {usage[0]} " in shown
    assert not re.search(r"\{|<bool>|range|x>=", shown)
    paragraphs = command(name).help.partition(VERBATIM)[0].strip().split("\n\n")
    assert not any("\n" in paragraph for paragraph in paragraphs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["descrbe", "slm"], "There is no command 'descrbe': did you mean slm describe?"),
        (["serve"], "There is no command 'serve': "),
        (["xyz"], "There is no command 'xyz': slm --help lists what there is."),
        (["get", "slmsv"], "There is no kind 'slmsv': did you mean slmsvc?"),
        (["get", "QuantJbo"], "There is no kind 'QuantJbo': did you mean quantjob?"),
        (["get", "pdos"], "There is no kind 'pdos': did you mean pods?"),
        (["get", "nope"], "There is no kind 'nope'; the kinds are slmmodels (slm)"),
        (["run", "x", "--max-tokens", "0"], "it must be 1 or more, not 0"),
        (["run", "x", "--temperature", "-1"], "it must be 0 or more, not -1"),
    ],
)
def test_a_slip_is_told_with_what_may_be_meant(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == exits.USAGE
    assert message in capsys.readouterr().err


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
