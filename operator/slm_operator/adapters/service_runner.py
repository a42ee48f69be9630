"""Services of the local backend: which forwarder listens where, and to which pods it leads."""

import asyncio
import hashlib
import socket
from collections.abc import Sequence

from slm_operator.adapters.forwarder import HOST, Forwarder
from slm_operator.adapters.pod_status import condition, port_of
from slm_operator.core.pods import is_ready
from slm_operator.ports import Cluster, Manifest, ObjectKey

FIRST_PORT, LAST_PORT = 20_000, 29_999
"""Range for ports nobody asked for: below the ports that systems give to outgoing connections, so they stay free."""
RETRY_SECONDS = 1.0
GRACE_SECONDS = 30.0
"""How long connections of a service that is gone may finish their answers; Kubernetes' default for pods."""


class ServiceRunner:
    """Reconciles Service objects into forwarders and ``status.loadBalancer``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._forwarders: dict[str, Forwarder] = {}
        self._retired: dict[Forwarder, asyncio.Task[None]] = {}

    async def sync(self, services: Sequence[Manifest]) -> None:
        """Retire the forwarders of deleted services."""
        uids = {service["metadata"]["uid"] for service in services}
        for uid in [uid for uid in self._forwarders if uid not in uids]:
            self._retire(uid)

    async def reconcile(self, service: Manifest, pods: Sequence[Manifest], taken: set[int]) -> float | None:
        """Listen and follow the ready pods; returns seconds until the next try when the port is in use."""
        uid, old = service["metadata"]["uid"], service.get("status", {})
        port = wanted_port(service) or _pick_port(service, taken)
        if uid in self._forwarders and self._forwarders[uid].port != port:
            self._retire(uid)
        if uid not in self._forwarders:
            forwarder = Forwarder()
            try:
                await forwarder.listen(port)
            except OSError as error:
                await self._write(service, _in_use(old, port, error))
                return RETRY_SECONDS
            self._forwarders[uid] = forwarder
        self._forwarders[uid].set_ready(tuple(sorted(port_of(pod) for pod in pods if _matches(service, pod))))
        await self._write(service, {"loadBalancer": {"ingress": [_ingress(port)]}})
        return None

    async def drain(self, port: int, limit_seconds: float) -> None:
        """Wait for requests under way on a pod's port, whichever service they came through."""
        forwarders = [*self._forwarders.values(), *self._retired]
        await asyncio.gather(*(forwarder.drain(port, limit_seconds) for forwarder in forwarders))

    def stop_listening(self) -> None:
        """Take no new connections; those that exist go on."""
        for forwarder in self._forwarders.values():
            forwarder.stop_listening()

    async def close(self) -> None:
        """Stop listening and cut what is connected."""
        for task in self._retired.values():
            task.cancel()
        for forwarder in [*self._forwarders.values(), *self._retired]:
            await forwarder.close()
        self._forwarders.clear()

    def _retire(self, uid: str) -> None:
        """Free a forwarder's port at once, and close it when the answers under way have ended."""
        forwarder = self._forwarders.pop(uid)
        forwarder.stop_listening()
        task = asyncio.create_task(_finish(forwarder))
        self._retired[forwarder] = task
        task.add_done_callback(lambda _: self._retired.pop(forwarder, None))

    async def _write(self, service: Manifest, status: Manifest) -> None:
        meta = service["metadata"]
        await self._cluster.update_status(ObjectKey("Service", meta["namespace"], meta["name"]), status)


async def _finish(forwarder: Forwarder) -> None:
    await forwarder.drain(None, GRACE_SECONDS)
    await forwarder.close()


def wanted_port(service: Manifest) -> int:
    """The port the spec asks for, else the one this service had before, else 0."""
    if port := service["spec"]["ports"][0].get("nodePort"):
        return int(port)
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    return int(ingress[0]["ports"][0]["port"]) if ingress else 0


def _ingress(port: int) -> Manifest:
    return {"ip": HOST, "ports": [{"port": port, "protocol": "TCP"}]}


def _matches(service: Manifest, pod: Manifest) -> bool:
    same = pod["metadata"]["namespace"] == service["metadata"]["namespace"]
    selected = service["spec"].get("selector", {}).items() <= pod["metadata"].get("labels", {}).items()
    return same and selected and is_ready(pod) and port_of(pod) > 0


def _pick_port(service: Manifest, taken: set[int]) -> int:
    """A free port, the same one whenever a service of this name is made again and the port is free."""
    name = f"{service['metadata']['namespace']}/{service['metadata']['name']}"
    span = LAST_PORT - FIRST_PORT + 1
    begin = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % span
    candidates = (FIRST_PORT + (begin + step) % span for step in range(span))
    return next(port for port in candidates if port not in taken and _free(port))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _in_use(old: Manifest, port: int, error: OSError) -> Manifest:
    message = (
        f"Port {port} on {HOST} cannot be used: {error.strerror or error}. End the program that holds it, or name"
        " another port; it is tried again every second."
    )
    kept = {"loadBalancer": old["loadBalancer"]} if "loadBalancer" in old else {}
    return {**kept, "conditions": [condition(old, "PortInUse", met=True, reason="PortInUse", message=message)]}
