"""The process around a gateway."""

import asyncio
import resource
import subprocess
import sys

import pytest

from slm_operator.gateway import serving

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


async def test_what_fails_beside_the_answers_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "RESTART_SECONDS", 0)
    begun: list[int] = []
    again = asyncio.Event()

    async def fail_once() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            raise RuntimeError("a bug")
        again.set()
        await asyncio.Future()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        parts = serving.Parts(group)
        parts.keep(fail_once)
        await again.wait()
        parts.end()
    assert (begun, parts.failures) == ([0, 1], 1)
