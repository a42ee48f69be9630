"""What most commands begin with."""

import pytest

from slm_operator.cli.exits import USAGE, CommandFailed
from slm_operator.cli.session import namespace_of


@pytest.mark.parametrize("name", ["../../x", "Team", "-a", "a-", "a.b", "a/b", "a\n", "a" * 64])
def test_what_is_no_namespace_is_refused(name: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        namespace_of(name)
    assert refused.value.code == USAGE
    assert str(refused.value).startswith("--namespace: ")
    assert "is no name of a namespace: use at most 63 lower-case letters, digits and -" in str(refused.value)


def test_the_longest_namespace_is_taken() -> None:
    assert namespace_of("a" * 63) == "a" * 63


def test_a_namespace_in_the_environment_is_checked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_NAMESPACE", "../../x")
    with pytest.raises(CommandFailed, match=r"SLM_NAMESPACE: '\.\./\.\./x' is no name of a namespace") as refused:
        namespace_of("")
    assert refused.value.code == USAGE
