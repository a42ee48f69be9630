"""The daemon of the local backend: ``python -m slm_operator.local.daemon``.

SIGTERM ends the daemon and everything it runs; SIGINT ends the daemon alone, and the next one adopts what runs.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from slm_operator.adapters.processes import ProcessKubelet
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.errors import DaemonRunning
from slm_operator.factory import build_controller, build_local_placement
from slm_operator.local.paths import LocalPaths
from slm_operator.settings import Settings

log = logging.getLogger("slm_operator.local")


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, message, and the object it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line |= {name: record.__dict__[name] for name in ("object", "error") if name in record.__dict__}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


@contextlib.contextmanager
def hold_lock(paths: LocalPaths) -> Iterator[None]:
    """Hold the state folder; raises DaemonRunning with the process that holds it already."""
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            message = (
                f"Another daemon (process {holder}) holds {paths.lock.parent}: "
                "stop it with `slm down`, or use another folder with SLM_STATE_HOME."
            )
            raise DaemonRunning(message) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


async def serve(paths: LocalPaths, settings: Settings) -> None:
    """Reconcile and run processes until a signal arrives."""
    cluster = SqliteCluster(paths.database)
    kubelet = ProcessKubelet(cluster, paths.state, paths.logs)
    controller = build_controller(cluster, build_local_placement(settings, str(paths.store)))
    stopping: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stopping, number)
    work = [asyncio.create_task(kubelet.run()), asyncio.create_task(controller.run())]
    log.info("daemon is up")
    done, _ = await asyncio.wait([stopping, *work], return_when=asyncio.FIRST_COMPLETED)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    if stopping in done and stopping.result() == signal.SIGTERM:
        await kubelet.stop_all()
    log.info("daemon is down")
    for task in done - {stopping}:
        task.result()


def _stop(stopping: "asyncio.Future[int]", number: int) -> None:
    if not stopping.done():
        stopping.set_result(number)


def main() -> int:
    """Run until told to stop; exit code 5 when another daemon holds the state folder."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    settings = Settings()
    paths = LocalPaths.of(settings)
    try:
        with hold_lock(paths):
            asyncio.run(serve(paths, settings))
    except DaemonRunning as error:
        sys.stderr.write(f"{error}\n")
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
