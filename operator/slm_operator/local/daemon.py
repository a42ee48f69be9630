"""The daemon of the local backend: ``python -m slm_operator.local.daemon``.

SIGTERM ends the daemon and everything it runs; SIGINT ends the daemon alone, and the next one adopts what runs.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from slm_operator.adapters.kubelet import ProcessKubelet
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.api.registry import KINDS
from slm_operator.core.plan import key_of
from slm_operator.errors import ClusterUnavailable, DaemonRunning, SlmError
from slm_operator.factory import SystemClock, build_controller, build_local_placement
from slm_operator.local.demand import DemandServer
from slm_operator.local.faults import forget_faults
from slm_operator.local.gateway_keeper import GatewayKeeper, end_gateway
from slm_operator.local.lifecycle import EXIT_MALFORMED, EXIT_RUNNING, hold_lock
from slm_operator.local.paths import LocalPaths
from slm_operator.local.sharing import join_store
from slm_operator.reconcile.autoscaler import Autoscaler
from slm_operator.reconcile.controller import Controller
from slm_operator.reconcile.reconciler import Reconciler
from slm_operator.settings import Settings

RETRY_SECONDS = 1.0
"""Wait before the database is watched anew after it could not be reached."""

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


async def reconcile_forever(build: Callable[[], Controller]) -> None:
    """Run a controller; a new one takes over when the database could not be read, as it rebuilds all it knows."""
    while True:
        try:
            await build().run()
        except* ClusterUnavailable as group:
            log.warning("the controller starts anew", extra={"error": str(group.exceptions[0])})
        await asyncio.sleep(RETRY_SECONDS)


async def reconcile_once(cluster: SqliteCluster, reconciler: Reconciler) -> None:
    """Bring every status up to date, what others are made of first."""
    for kind in KINDS:
        for manifest in await cluster.list(kind):
            key = key_of(manifest)
            try:
                await reconciler.reconcile(key)
            except SlmError as error:
                log.warning("reconcile failed", extra={"object": str(key), "error": str(error)})
            except Exception:
                # One object that trips over a bug must not keep the daemon from starting.
                log.exception("reconcile hit a bug", extra={"object": str(key)})


async def wind_down(cluster: SqliteCluster, kubelet: ProcessKubelet, reconciler: Reconciler) -> None:
    """End every process, and let the statuses say so."""
    await kubelet.stop_all()
    await reconcile_once(cluster, reconciler)


async def serve(paths: LocalPaths, settings: Settings, announce: Callable[[int, str], None]) -> None:
    """Reconcile and run processes until a signal arrives; ``announce`` is called once statuses are true."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping, number)
    cluster = SqliteCluster(paths.database)
    kubelet = ProcessKubelet(cluster, paths.state, paths.logs)
    join_store(paths)
    await forget_faults(cluster)
    placement = build_local_placement(settings, str(paths.store))
    autoscaler = Autoscaler()
    demand = DemandServer(autoscaler)
    reconciler = Reconciler(cluster, SystemClock(), placement, autoscaler=autoscaler)

    async def control() -> None:
        # Announced only when statuses are true: a service that was Ready before a reboot is not Ready now.
        await kubelet.synced.wait()
        await reconcile_once(cluster, reconciler)
        announce(await demand.listen(), demand.token)
        log.info("daemon is up")
        await reconcile_forever(lambda: build_controller(cluster, placement, autoscaler=autoscaler))

    work = [asyncio.create_task(kubelet.run()), asyncio.create_task(control())]
    keeper = GatewayKeeper(paths)
    if settings.gateway:
        work.append(asyncio.create_task(keeper.run()))
    tasks: list[asyncio.Future[Any]] = [stopping, *work]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    broken = [task for task in work if task.done()]
    graceful = stopping.done() and stopping.result() == signal.SIGTERM
    # The controller first: a kubelet that is cancelled cuts its connections, one that winds down lets answers finish.
    await _cancel(work[1:])
    if graceful:
        gateways = keeper.stop()  # Its answers end while engines are given time to end theirs.
        await wind_down(cluster, kubelet, reconciler)
        await asyncio.to_thread(end_gateway, gateways)
    await _cancel(work)
    demand.close()
    cluster.close()
    log.info("daemon is down")
    for task in broken:
        task.result()


async def _cancel(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop(stopping: "asyncio.Future[int]", number: int) -> None:
    if not stopping.done():
        stopping.set_result(number)


def configure_logging() -> None:
    """A line of JSON on standard error for whatever is told."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def main() -> int:
    """Run until told to stop; the exit code says why it could not start."""
    configure_logging()
    try:
        settings = Settings()
        paths = LocalPaths.of(settings)
        with hold_lock(paths) as announce:
            asyncio.run(serve(paths, settings, announce))
    except DaemonRunning as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_RUNNING
    except (ValidationError, SlmError, OSError) as error:
        sys.stderr.write(f"The daemon cannot start: {error}\n")
        return EXIT_MALFORMED
    return 0


if __name__ == "__main__":
    sys.exit(main())
