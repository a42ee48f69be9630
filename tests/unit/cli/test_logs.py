"""A pod's log as people read it."""

from pathlib import Path

import pytest

from slm_operator.cli.logs import LogPrinter, render_line

PROGRESS = '{"step":"acquire","message":"fetching model.safetensors","done":1048576,"total":4194304,"unit":"bytes"}'
READ = "acquire: fetching model.safetensors: 1.0 MiB of 4.0 MiB (25%)"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (PROGRESS, READ),
        ('{"step":"resolve","message":"asking the hub"}', "resolve: asking the hub"),
        ('{"step":"resolve"}', '{"step":"resolve"}'),
        ('{"a": 1', '{"a": 1'),
        ("llama_model_loader: loaded", "llama_model_loader: loaded"),
        ("", ""),
    ],
)
def test_progress_is_a_sentence_and_everything_else_as_it_is(line: str, shown: str) -> None:
    assert render_line(line) == shown


def test_the_tail_is_rendered_or_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "0.log"
    path.write_text(f"begin\n{PROGRESS}\nend\n")
    LogPrinter(path, raw=False).print_tail(2, last=True)
    assert capsys.readouterr().out == f"{READ}\nend\n"
    LogPrinter(path, raw=True).print_tail(-1, last=True)
    assert capsys.readouterr().out == path.read_text()


def test_a_line_that_is_still_being_written_waits_for_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, half = tmp_path / "0.log", len(PROGRESS) // 2
    path.write_text(f"begin\n{PROGRESS[:half]}")
    printer = LogPrinter(path, raw=False)
    printer.print_tail(-1, last=False)
    assert capsys.readouterr().out == "begin\n"
    with path.open("a") as file:
        file.write(f"{PROGRESS[half:]}\nno newline")
    printer.print_more(last=False)
    assert capsys.readouterr().out == f"{READ}\nno newline"
    path.write_text('{"step"')
    printer.print_more(last=False)
    assert capsys.readouterr().out == ""
    printer.print_more(last=True)
    assert capsys.readouterr().out == '{"step"'
