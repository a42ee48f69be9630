"""The process around a gateway."""

import resource
import subprocess
import sys

PROGRAM = """
import resource
from slm_operator.gateway.serving import run

async def tell():
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))

run(tell())
"""


def test_it_may_hold_as_many_connections_as_the_system_allows() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))

    told = subprocess.run([sys.executable, "-c", PROGRAM], preexec_fn=few, capture_output=True, check=True, text=True)
    assert told.stdout.split() == [str(most)] * 2
