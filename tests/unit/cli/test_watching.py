"""Rows of a watch stand below the names of their columns."""

import pytest

from slm_operator.cli.naming import build_model
from slm_operator.cli.reading import Output, RowPrinter
from slm_operator.ports import Manifest


def item(name: str) -> Manifest:
    return build_model(name, "default", {"path": "/m"})


def test_the_header_is_printed_again_only_when_a_column_grew(capsys: pytest.CaptureFixture[str]) -> None:
    printer = RowPrinter("SLMModel", Output.TABLE, with_namespace=False)
    printer.make_room([item("medium"), item("a")])
    for name in ("a", "medium", "a", "much-longer", "a"):
        printer.print(item(name))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "a", "medium", "a", "NAME", "much-longer", "a"]
    assert lines[0].index("READY") == len("medium   ")
    assert lines[4].index("READY") == len("much-longer   ")
