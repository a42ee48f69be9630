"""What every command begins with: a namespace that is one, folders that can be used."""

from pathlib import Path

import pytest

from tests.local.cli_support import Slm, make_slm, model, slm

__all__ = ["slm"]


def test_what_is_no_namespace_is_refused_before_anything_is_written(slm: Slm) -> None:
    message = slm.bad(2, "apply", "-f", "-", "--namespace", "../../x", stdin=model("a"))
    assert message.startswith("error: --namespace: '../../x' is no name of a namespace: use at most 63 lower-case")
    assert not slm.state.exists()


@pytest.mark.parametrize("arguments", [("get", "slm"), ("up",), ("ps",)])
def test_a_state_folder_that_cannot_be_one_gives_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    slm = make_slm(tmp_path, SLM_STATE_HOME="/dev/null/x")
    message = slm.bad(1, *arguments)
    assert message.startswith("error: /dev/null/x")
    assert message.endswith(": Not a directory; choose another folder with SLM_STATE_HOME\n")
    assert len(message.splitlines()) == 1
