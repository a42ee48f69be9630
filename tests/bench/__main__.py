"""``python -m tests.bench NAME|all``: run benchmarks, print their JSON, keep it in build/bench."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from tests.bench import acquire, autoscale, convert, gateway, operator, reconcile, threads
from tests.bench.harness import ROOT, Report

BENCHMARKS: dict[str, Callable[[Path], Report]] = {
    "acquire": acquire.run,
    "autoscale": autoscale.run,
    "convert": convert.run,
    "gateway": gateway.run,
    "operator": operator.run,
    "reconcile": reconcile.run,
    "threads": threads.run,
}


def main() -> int:
    """Run what was named; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, epilog="example: make bench BENCH=acquire"
    )
    parser.add_argument("name", choices=["all", *BENCHMARKS])
    chosen = parser.parse_args().name
    met = True
    for name in BENCHMARKS if chosen == "all" else [chosen]:
        # Steps tell their progress where the report is to be.
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder, redirect_stdout(sys.stderr):
            report = BENCHMARKS[name](Path(folder))
        report.write(ROOT / "build" / "bench")
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
        met = met and report.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
