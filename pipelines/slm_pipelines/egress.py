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


GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is handed out of IPv6 (RFC 4291): no multicast, site-local or loopback address lies in it."""
CARRIERS = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""NAT64 (RFC 6052) and the old IPv4-compatible form: the last 32 bits are an IPv4 address that is really reached."""
MAX_ADDRESSES = 4
"""Addresses of one name that are tried: a dead first one is common, more only make a failure slow."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet; one that carries an IPv4 address is judged by that."""
    parsed = ipaddress.ip_address(address)
    inner = _carried(parsed) if isinstance(parsed, ipaddress.IPv6Address) else parsed
    if inner is not None:
        return inner.is_global and not inner.is_multicast
    return parsed.is_global and parsed in GLOBAL_UNICAST


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if any(address in network for network in CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def choose_addresses(host: str, port: int, allowed: Sequence[str]) -> list[str]:
    """The addresses to connect to, in order; raises Retryable HostNotAllowed or SourceUnavailable.

    ``allowed`` holds ``host`` or ``host:port`` entries that may lie inside private networks.
    """
    try:
        items = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"The host {host} cannot be resolved ({error}): check the name and the network."
        raise Retryable(Reason.SOURCE_UNAVAILABLE, message) from error
    found = list(dict.fromkeys(str(item[4][0]) for item in items))
    if host in allowed or f"{host}:{port}" in allowed:
        return found[:MAX_ADDRESSES]
    private = [address for address in found if not is_public(address)]
    if private:
        message = (
            f"{host}:{port} is at {private[0]}, inside a private network: if that is wanted, "
            f"name {host}:{port} in SLM_ALLOW_PRIVATE_HOSTS."
        )
        raise Retryable(Reason.HOST_NOT_ALLOWED, message)  # A setting may change without the manifest.
    return found[:MAX_ADDRESSES]


class GuardedBackend(httpcore.SyncBackend):
    """Connects only to addresses that ``choose_addresses`` agrees to."""

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
        """Resolve, check, connect to the first checked address that answers."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in choose_addresses(host, port, self._allowed):
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


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
