"""The arguments a user may not pass to llama-server, held against what the real one offers."""

import re

import pytest

from slm_operator.api.engine_args import FORBIDDEN_ARGS, PRESET_ENDINGS
from slm_pipelines.tools.child import run_tool
from slm_pipelines.tools.llama_cpp import Engine
from tests.support.engine import engine

__all__ = ["engine"]

SUSPICIOUS = re.compile(
    r"FNAME|PATH|URL|SERVERS|\b(file|director(y|ies)|folder|download|hugging ?face|docker|tools?|proxy|mcp|agent"
    r"|api key|ssl|exit)\b",
    re.IGNORECASE,
)
REVIEWED = {
    "--mmproj-auto": "looks for a projector beside a model from a hub; ours never come from one",
    "--skip-chat-parsing": "leaves tool calls in the answer's text; runs none",
}
"""Options whose help uses such a word and which are harmless all the same, and why."""


def read_options(help_text: str) -> dict[tuple[str, ...], str]:
    """Names of each option to what the help says about it."""
    found: dict[tuple[str, ...], str] = {}
    names: tuple[str, ...] = ()
    for line in help_text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            head = re.split(r"\s{2,}(?!-)", line)[0]
            names = tuple(re.findall(r"(?<![\w<-])--?[A-Za-z][\w.-]*", head))
            found[names] = line
        elif names and line.startswith(" "):
            found[names] += " " + line.strip()
        else:
            names = ()
    return found


@pytest.fixture
def options(engine: Engine) -> dict[tuple[str, ...], str]:
    run = run_tool([engine.program("llama-server"), "--help"])
    return read_options(run.output)


def is_refused(name: str) -> bool:
    return name in FORBIDDEN_ARGS or name.endswith(PRESET_ENDINGS)


def test_every_spelling_of_a_refused_option_is_refused(options: dict[tuple[str, ...], str]) -> None:
    assert len(options) > 150
    for names in options:
        refused = {is_refused(name) for name in names if not name.lstrip("-").startswith("no-")}
        assert len(refused) <= 1, names


def test_whatever_opens_files_or_connections_is_refused_or_was_looked_at(options: dict[tuple[str, ...], str]) -> None:
    open_doors = {
        names[-1]: text
        for names, text in options.items()
        if SUSPICIOUS.search(text) and not any(is_refused(name) or name in REVIEWED for name in names)
    }
    assert open_doors == {}
