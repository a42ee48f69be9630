"""Connections that cannot be talked into a private network.

A manifest names a hub, and a hub names further hosts by redirects: without this check both could reach into the
cluster's own network. Names are resolved once, checked, and the checked address is what is connected to, so that
a name that answers differently the second time (DNS rebinding) gains nothing.
"""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import httpcore
import httpx

from slm_contract.reasons import Reason
from slm_pipelines.errors import Retryable

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet."""
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global


def choose_address(host: str, port: int, allowed: Sequence[str]) -> str:
    """The address to connect to; raises Retryable HostNotAllowed or SourceUnavailable.

    ``allowed`` holds ``host`` or ``host:port`` entries that may lie inside private networks.
    """
    try:
        found = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        message = f"The host {host} cannot be resolved ({error}): check the name and the network."
        raise Retryable(Reason.SOURCE_UNAVAILABLE, message) from error
    if host in allowed or f"{host}:{port}" in allowed:
        return found[0]
    private = [address for address in found if not is_public(address)]
    if private:
        message = (
            f"{host}:{port} is at {private[0]}, inside a private network: if that is wanted, "
            f"name {host}:{port} in SLM_ALLOW_PRIVATE_HOSTS."
        )
        raise Retryable(Reason.HOST_NOT_ALLOWED, message)  # A setting may change without the manifest.
    return found[0]


class GuardedBackend(httpcore.SyncBackend):
    """Connects only to addresses that ``choose_address`` agrees to."""

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__()
        self._allowed = allowed

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, check, connect to what was checked."""
        address = choose_address(host, port, self._allowed)
        return super().connect_tcp(address, port, timeout, local_address, socket_options)


def build_client(allowed: Sequence[str], connections: int) -> httpx.Client:
    """An HTTP client behind the guard that follows no redirect by itself.

    Proxies from the environment are not used: behind one, the guard could not see where a request really goes.
    """
    transport = httpx.HTTPTransport(retries=0)
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001 - httpx offers no other way to set the backend
        ssl_context=httpx.create_ssl_context(),
        max_connections=connections,
        network_backend=GuardedBackend(allowed),
    )
    timeout = httpx.Timeout(30.0, connect=15.0)
    return httpx.Client(transport=transport, timeout=timeout, follow_redirects=False)
