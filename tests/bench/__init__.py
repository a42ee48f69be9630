"""Benchmarks: ours beside a peer or a floor, measured in one run. ``python -m tests.bench NAME``."""
