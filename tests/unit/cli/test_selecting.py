"""Which objects the words of a command line mean."""

import pytest

from slm_operator.cli.deleting import parse_doomed
from slm_operator.cli.exits import USAGE, CommandFailed
from slm_operator.cli.selecting import Selection, parse_selection, parse_selector
from slm_operator.ports import ObjectKey


def test_selectors_are_pairs_with_commas() -> None:
    assert parse_selector("a=b,slm.dev/step==serve,empty=") == {"a": "b", "slm.dev/step": "serve", "empty": ""}
    assert parse_selector("") == {}


@pytest.mark.parametrize("text", ["a", "a!=b", "=b", "a in (b)", "a=b,c"])
def test_other_selectors_are_refused(text: str) -> None:
    with pytest.raises(CommandFailed, match="A selector is written as key=value, several with commas, not") as refused:
        parse_selector(text)
    assert refused.value.code == USAGE


def test_a_kind_alone_means_all_of_it_and_a_name_one() -> None:
    everywhere = parse_selection(["qj,slm"], "team", "a=b", everywhere=True)
    assert everywhere == Selection("", kinds=["QuantJob", "SLMModel"], labels={"a": "b"})
    assert str(everywhere) == "QuantJob, SLMModel in any namespace with a=b"
    assert parse_selection(["qj", "one"], "team", "").keys == [ObjectKey("QuantJob", "team", "one")]
    assert parse_selection(["qj/one"], "team", "").keys == [ObjectKey("QuantJob", "team", "one")]


def test_a_name_leaves_nothing_to_select() -> None:
    with pytest.raises(CommandFailed, match="leave out -l or the name"):
        parse_selection(["qj", "one"], "team", "a=b")
    with pytest.raises(CommandFailed, match="leave out -A or the name"):
        parse_selection(["qj/one"], "team", "", everywhere=True)


@pytest.mark.parametrize(
    ("words", "selector", "everything", "message"),
    [
        (["qj"], "", False, "not as 'qj'; --all takes every one"),
        (["qj", "one"], "", True, "--all takes every object of a kind: leave it out, or the names and -l"),
        (["qj"], "a=b", True, "--all takes every object of a kind"),
        ([], "", True, "--all and -l need a KIND before them"),
        ([], "a=b", False, "--all and -l need a KIND before them"),
    ],
)
def test_nobody_deletes_all_by_a_slip(words: list[str], selector: str, everything: bool, message: str) -> None:  # noqa: FBT001
    with pytest.raises(CommandFailed) as refused:
        parse_doomed(words, "default", selector, everything=everything)
    assert message in str(refused.value)
    assert refused.value.code == USAGE


def test_all_or_labels_choose_what_to_delete() -> None:
    assert parse_doomed(["qj"], "team", "", everything=True) == Selection("team", kinds=["QuantJob"])
    assert parse_doomed(["qj"], "team", "a=b", everything=False).labels == {"a": "b"}
