"""What tests need and what takes longer to make than a test may take: made beforehand, as ``make test`` does.

What cannot be had here is told, with what to do about it; the tests that need it say so again where they are skipped.
"""

import os
import subprocess
import sys
from collections.abc import Callable

from dev.cluster import build, node
from dev.cluster.versions import TOOLS, chosen_version
from dev.images.build import FAILURES, build_images
from dev.vllm import install as vllm


def build_programs() -> None:
    """Kubernetes, and what runs in and beside it."""
    build.kubernetes(chosen_version())
    build.tools(TOOLS)


def install_node() -> None:
    """Debian packages of a node, for whom only root can start one."""
    if os.getuid() != 0:
        raise build.BuildFailed("only root can start one")
    node.install_packages()


PARTS: dict[str, Callable[[], object]] = {
    "Kubernetes": build_programs,
    "a node": install_node,
    "container images": build_images,
    "vLLM": vllm.install,
}


def main() -> int:
    """Make all of it, or tell what is missing."""
    for name, make in PARTS.items():
        try:
            make()
        except (build.BuildFailed, subprocess.CalledProcessError, ValueError, *FAILURES) as problem:
            detail = getattr(problem, "stderr", "") or ""
            sys.stderr.write(f"==> Going on without {name}: {problem}\n{detail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
