"""Fixtures that suites share."""

pytest_plugins = ["tests.support.clusters"]
