"""Real kubelets for the tests of the local backend."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from slm_operator.adapters.kubelet import KubeletSettings, ProcessKubelet
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.ports import Manifest, ObjectKey

DAEMON = """
import asyncio, sys
from pathlib import Path
from slm_operator.adapters.kubelet import ProcessKubelet
from slm_operator.adapters.sqlite import SqliteCluster
state = Path(sys.argv[1])
async def main():
    await ProcessKubelet(SqliteCluster(state / "slm.sqlite"), state, state / "logs").run()
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def kubelet(state: Path) -> AsyncIterator[SqliteCluster]:
    cluster = SqliteCluster(state / "slm.sqlite")
    runner = ProcessKubelet(cluster, state, state / "logs", KubeletSettings(job_backoff_base_seconds=0.05))
    task = asyncio.create_task(runner.run())
    try:
        yield cluster
    finally:
        await runner.stop_all()
        await asyncio.gather(task, return_exceptions=True)
        cluster.close()


def daemon_argv(state: Path) -> list[str]:
    return [sys.executable, "-c", DAEMON, str(state)]


def job(name: str, script: str, **spec: Any) -> Manifest:
    container = {"name": "main", "command": ["sh", "-c"], "args": [script]}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [65, 64]}}
    full = {"template": template, "backoffLimit": 3, "podFailurePolicy": {"rules": [rule]}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "default"}, "spec": full}


async def until(
    cluster: SqliteCluster, key: ObjectKey, test: Callable[[dict[str, Any]], Any], limit_seconds: float = 60
) -> Manifest:
    """The object once ``test(status)`` holds."""
    found: Manifest | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_seconds):
            while True:
                found = await cluster.get(key)
                if found and test(found.get("status", {})):
                    return found
                await asyncio.sleep(0.02)
    raise AssertionError(f"{key} never got there: {found and found.get('status')}")


async def until_true(test: Callable[[], Any], limit_seconds: float = 60) -> None:
    async with asyncio.timeout(limit_seconds):
        while not test():
            await asyncio.sleep(0.02)


def finished(status: dict[str, Any]) -> bool:
    return any(each["type"] in ("Complete", "Failed") for each in status.get("conditions", []))
