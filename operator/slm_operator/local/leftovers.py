"""Processes as they are recorded, whether a daemon looks after them or not; ending them where none does."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Collection, Iterator

from slm_operator.adapters import processes
from slm_operator.adapters.kubelet import ProcessKubelet
from slm_operator.adapters.pod_runner import PodRunner
from slm_operator.adapters.pod_worker import Folders
from slm_operator.adapters.process_table import ProcessRecord, ProcessTable
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.errors import ClusterUnavailable
from slm_operator.factory import SystemClock, build_local_placement
from slm_operator.local.daemon import wind_down
from slm_operator.local.gateway_keeper import end_gateway, stop_gateway
from slm_operator.local.lifecycle import hold_daemonless
from slm_operator.local.paths import LocalPaths
from slm_operator.reconcile.reconciler import Reconciler
from slm_operator.settings import Settings


@contextlib.contextmanager
def _open_table(paths: LocalPaths) -> Iterator[ProcessTable]:
    try:
        table = ProcessTable(paths.processes)
        try:
            yield table
        finally:
            table.close()
    except sqlite3.Error as error:
        raise ClusterUnavailable(f"{paths.processes} cannot be used just now: {error}.") from error


def read_records(paths: LocalPaths) -> list[ProcessRecord]:
    """Every recorded process, also of pods whose object is gone; raises ClusterUnavailable."""
    if not paths.processes.exists():
        return []
    with _open_table(paths) as table:
        return table.all()


def find_living(paths: LocalPaths) -> list[ProcessRecord]:
    """Recorded processes that run."""
    return [record for record in read_records(paths) if (handle := processes.adopt(record)) and handle.running()]


async def end_records(paths: LocalPaths, cluster: SqliteCluster, uids: Collection[str]) -> None:
    """End the processes of some pods in the place of a daemon; raises DaemonRunning when there is one."""
    with hold_daemonless(paths), _open_table(paths) as table:
        folders = Folders(paths.state.resolve(), paths.logs.resolve())
        runner = PodRunner(cluster, table, folders, _drain_nothing)
        await runner.end([record for record in table.all() if record.pod_uid in uids])


async def _drain_nothing(port: int, limit_seconds: float) -> None:
    """Without a daemon no request comes through."""


async def end_leftovers(paths: LocalPaths, settings: Settings) -> int:
    """End what a killed daemon left running as its own end would have done; returns how many processes.

    Raises DaemonRunning when there is a daemon.
    """
    living = find_living(paths)
    gateways = stop_gateway(paths)
    if living:
        with hold_daemonless(paths), contextlib.closing(SqliteCluster(paths.database)) as cluster:
            kubelet = ProcessKubelet(cluster, paths.state, paths.logs)
            reconciler = Reconciler(cluster, SystemClock(), build_local_placement(settings, str(paths.store)))
            await wind_down(cluster, kubelet, reconciler)
    await asyncio.to_thread(end_gateway, gateways)
    return len(living) + len(gateways)
