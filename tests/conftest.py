"""Fixtures that suites share, and which tests stay together when workers divide them."""

import pytest

pytest_plugins = ["tests.support.clusters", "tests.support.installed"]


@pytest.hookimpl(tryfirst=True)  # Before xdist reads the groups.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file on one worker, as ``--dist loadfile`` does, but all that share the one node on the same one."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
