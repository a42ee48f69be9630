"""Fixtures that suites share, and how two workers divide the tests."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.support.clusters", "tests.support.installed"]
NODE = "node"
"""All that share the one cluster with a node, and the demo that is played on it first."""
FIRST = (NODE, "tests/operator/", "tests/local/", "tests/pipelines/", "tests/chart/", "tests/images/", "tests/api/")
"""What takes long begins early, so that no worker is left with it at the end."""

# A machine that is busy elsewhere is no finding, and an example that fails must fail again.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def scope_of(nodeid: str) -> str:
    """What a test stays together with on one worker: its file, but for those of the node."""
    if nodeid.startswith("tests/node/") or "[cluster" in nodeid:
        return NODE
    return nodeid.partition("::")[0]


class Scheduling(LoadScopeScheduling):
    """One scope after the other goes to whichever worker is free; ``--dist loadscope`` asks for it.

    Not ``loadgroup``: of its groups, which stand in names of tests, pytest 9.2 leaves nothing for it to read.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Ours, where scopes are asked for."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first."""
    places = {item.nodeid: _place(scope_of(item.nodeid)) for item in items}
    items.sort(key=lambda item: places[item.nodeid])


def _place(scope: str) -> int:
    return next((place for place, name in enumerate(FIRST) if scope.startswith(name)), len(FIRST))
