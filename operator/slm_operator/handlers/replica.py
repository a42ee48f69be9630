"""One replica of the operator: it watches always, and acts while it holds the Lease."""

import asyncio
import logging
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from kubernetes.aio.client import ApiClient

from slm_operator.adapters.kube import KubeCluster
from slm_operator.adapters.kube_audit import Audit
from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from slm_operator.adapters.kube_kinds import KINDS, PUBLISHED, Kind
from slm_operator.adapters.kube_progress import ProgressReader
from slm_operator.adapters.lease import Leadership, LeaseSettings
from slm_operator.adapters.metrics import Metrics
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.adapters.server_clock import ServerClock
from slm_operator.api.meta import API_VERSION
from slm_operator.errors import ClusterUnavailable
from slm_operator.factory import build_cluster_placement, build_controller
from slm_operator.gateway.listening import any_addresses
from slm_operator.handlers.demand import DemandEndpoint
from slm_operator.handlers.health import build_app
from slm_operator.handlers.watching import watch
from slm_operator.reconcile.autoscaler import Autoscaler
from slm_operator.reconcile.controller import Controller
from slm_operator.settings import OperatorSettings

SHUTDOWN_SECONDS = 1.0
"""Longest wait for answers of the port when the process ends."""
log = logging.getLogger(__name__)


class Replica:
    """Everything one process does."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._cache = ObjectCache()
        self._clock = ServerClock()
        # A name of its own for each process: one that was killed cannot be mistaken for the one that follows it.
        identity = f"{settings.pod_name}_{uuid.uuid4().hex[:8]}"
        lease = LeaseSettings(settings.operator_namespace, settings.lease_name, identity, settings.lease_seconds)
        self._leadership = Leadership(lease)
        self._autoscaler = Autoscaler()
        self._controller: Controller | None = None

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; raises ClusterUnavailable without an API server that serves our kinds."""
        async with open_api() as api:
            free = KubeClient(api, Always(), self._metrics.count_request, self._clock)
            if await free.read(f"/apis/{API_VERSION}") is None:
                message = f"The API server does not serve {API_VERSION}: install the CRDs (kubectl apply -f crds/)."
                raise ClusterUnavailable(message)
            namespaces = self._settings.watch_namespaces
            audit = Audit(free, self._cache, namespaces, self._field_selectors(), kinds=self._kinds())
            async with self._serving(audit, free):
                await self._work(api, free, audit)

    def _kinds(self) -> list[Kind]:
        """What is watched: who looks at some namespaces has no right to see nodes."""
        everywhere = not self._settings.watch_namespaces
        nodes = self._settings.watch_nodes and everywhere
        return [kind for kind in KINDS.values() if kind.name not in PUBLISHED or nodes]

    def _field_selectors(self) -> dict[str, str]:
        """Of all PersistentVolumeClaims, only the stores."""
        return {"PersistentVolumeClaim": f"metadata.name={self._settings.store_claim}"}

    async def _work(self, api: ApiClient, free: KubeClient, audit: Audit) -> None:
        """Watch and lead until told to stop: first the acting ends and the Lease goes back, then the watching."""
        stop, namespaces = asyncio.Event(), self._settings.watch_namespaces

        def take_signals() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)

        take_signals()
        leading = asyncio.create_task(self._lead(api, free, audit), name="lead")
        auditing = asyncio.create_task(audit.run(), name="audit")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        informer = asyncio.create_task(
            watch(self._cache, namespaces, self._field_selectors(), audit.soon, take_signals, self._kinds())
        )
        tasks = (leading, auditing, informer)
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        for task in ended:
            task.result()

    async def _lead(self, api: ApiClient, free: KubeClient, audit: Audit) -> None:
        """Act on full caches only, and only while the Lease is held."""
        await audit.synced.wait()
        log.info("caches are filled", extra={"identity": self._leadership.identity})
        fenced = KubeClient(api, self._leadership, self._metrics.count_request, self._clock)

        async def act() -> None:
            await audit.catch_up()  # With what the replica before this one wrote last.
            cluster = KubeCluster(fenced, self._cache)
            progress = ProgressReader(free, cluster, self._cache)
            placement = build_cluster_placement(self._settings)
            self._controller = build_controller(cluster, placement, self._metrics, self._clock, self._autoscaler)
            self._metrics.led(leads=True)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(progress.run())
                    group.create_task(self._controller.run())
            finally:
                self._metrics.led(leads=False)
                self._controller = None
                self._autoscaler.stand_by()

        await self._leadership.run(free, act)

    @asynccontextmanager
    async def _serving(self, audit: Audit, client: KubeClient) -> AsyncIterator[None]:
        """The HTTP port, open while the replica works."""

        def work() -> str:
            return self._controller.stuck() if self._controller else ""

        def filled() -> str:
            return "" if audit.synced.is_set() else "The caches are being filled."

        account = self._settings.gateway_account
        demand = DemandEndpoint(client, account, self._autoscaler) if account else None
        app = build_app([work, audit.stuck], [filled], self._metrics, demand)
        # A gateway's request has no end; when this replica ends, another hears the gateway already.
        runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            for address in any_addresses():
                await web.TCPSite(runner, address, self._settings.listen_port).start()
            yield
        finally:
            await runner.cleanup()
