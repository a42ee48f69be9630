"""The cluster adapter over a real API server, as an operator opens it, without anything that acts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from slm_operator.adapters.kube import KubeCluster
from slm_operator.adapters.kube_audit import Audit
from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.handlers.watching import watch

CLAIMS = {"PersistentVolumeClaim": "metadata.name=slm-store"}


def count_nothing(_verb: str, _path: str, _status: int) -> None:
    """Where nobody reads metrics."""


@asynccontextmanager
async def watched_cluster(namespace: str) -> AsyncIterator[tuple[KubeCluster, KubeClient]]:
    """A cluster whose cache follows one namespace of the API server that KUBECONFIG names, and a client of it."""
    cache = ObjectCache()
    async with open_api() as api:
        client = KubeClient(api, Always(), count_nothing)
        audit = Audit(client, cache, [namespace], CLAIMS)
        informer = watch(cache, [namespace], CLAIMS, audit.soon, lambda: None)
        tasks = [asyncio.create_task(informer), asyncio.create_task(audit.run())]
        try:
            async with asyncio.timeout(30):
                await audit.synced.wait()
            yield KubeCluster(client, cache), client
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
