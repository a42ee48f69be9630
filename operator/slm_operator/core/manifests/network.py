"""What pods may say on the network: three policies for each namespace, chosen by a label of the pod."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from slm_operator.api.meta import GROUP
from slm_operator.core.manifests.metadata import Owner, build_metadata
from slm_operator.core.placement import ClusterPods
from slm_operator.core.plan import Manifest

Network = Literal["none", "source", "serve"]
"""none: steps that parse, make and measure. source: steps that ask a hub. serve: engines."""
LABEL_NETWORK = f"{GROUP}/network"
OFFLINE, SOURCE, ENGINES = "slm-steps-offline", "slm-steps-source", "slm-engines"
POLICY_NAMES = (OFFLINE, SOURCE, ENGINES)

LABEL_GATEWAY = f"{GROUP}/gateway"
"""Marks gateways' pods, which the chart makes."""
GATEWAY, NOBODY = "gateway", "none"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"

ENGINE_PORT = 8080
HTTPS_PORT, HTTP_PORT, MAX_PORT = 443, 80, 65535
DNS_PORTS = (53, 5353)
"""Of name servers in pods or on nodes, wherever a cluster has them; the second is OpenShift's."""
PRIVATE = {
    "0.0.0.0/0": (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
    ),
    "::/0": ("::1/128", "64:ff9b::/96", "fc00::/7", "fe80::/10", "ff00::/8"),
}
"""Everything of a family to what of it is not public: IANA's special-purpose registries."""
ADDRESS = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?")


def build_callers(pods: ClusterPods) -> list[Manifest]:
    """Peers that may reach engines; none stands for everybody."""
    if "*" in pods.engine_callers:
        return []
    peers: list[Manifest] = []
    for name in sorted(set(pods.engine_callers)):
        if name != GATEWAY:
            peers.append({"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: name}}})
        elif pods.gateway_namespace:
            namespace = {"matchLabels": {NAMESPACE_LABEL: pods.gateway_namespace}}
            peers.append({"namespaceSelector": namespace, "podSelector": {"matchLabels": {LABEL_GATEWAY: "true"}}})
    return peers or [{"podSelector": {"matchLabels": {LABEL_GATEWAY: NOBODY}}}]


def build_policies(
    owner: Owner,
    endpoints: Iterable[str],
    allow_private_hosts: Iterable[str],
    callers: Sequence[Manifest] = (),
) -> list[Manifest]:
    """The three policies of a namespace; ``callers`` are the peers that reach engines, and without any all do.

    ``endpoints`` are the base addresses of the hubs that models there name. ``allow_private_hosts`` holds ``host`` or
    ``host:port``: an IP address is allowed as it is. A policy cannot name a host, so for a host name its port is
    allowed to *every* private address, and only the step itself checks which one it connects to.
    """
    ports = sorted({_port_of(endpoint) for endpoint in endpoints} | {HTTPS_PORT})
    egress = [_dns(), _public(ports), *_private(sorted(set(allow_private_hosts)), ports)]
    return [
        _policy(owner, OFFLINE, "none", ["Ingress", "Egress"], {"ingress": [], "egress": []}),
        _policy(owner, SOURCE, "source", ["Ingress", "Egress"], {"ingress": [], "egress": egress}),
        _policy(
            owner,
            ENGINES,
            "serve",
            ["Ingress", "Egress"],
            {"ingress": [{**({"from": list(callers)} if callers else {}), "ports": [_tcp(ENGINE_PORT)]}], "egress": []},
        ),
    ]


def _policy(owner: Owner, name: str, network: Network, types: list[str], rules: Manifest) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": build_metadata(owner, name),
        "spec": {"podSelector": {"matchLabels": {LABEL_NETWORK: network}}, "policyTypes": types, **rules},
    }


def _dns() -> Manifest:
    return {"ports": [{"protocol": protocol, "port": port} for port in DNS_PORTS for protocol in ("UDP", "TCP")]}


def _public(ports: list[int]) -> Manifest:
    blocks = [{"ipBlock": {"cidr": cidr, "except": list(private)}} for cidr, private in PRIVATE.items()]
    return {"to": blocks, "ports": [_tcp(port) for port in ports]}


def _private(hosts: list[str], ports: list[int]) -> list[Manifest]:
    rules = []
    for item in hosts:
        host, port = _split(item)
        allowed = [port] if port else ports
        blocks = _blocks(host)
        rules.append(
            {"to": [{"ipBlock": {"cidr": cidr}} for cidr in blocks], "ports": [_tcp(port) for port in allowed]}
        )
    return rules


def _blocks(host: str) -> list[str]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
    return [f"{address}/{address.max_prefixlen}"]


def _port_of(endpoint: str) -> int:
    scheme, _, rest = endpoint.partition("://")
    _, port = _split(rest.partition("/")[0].rpartition("@")[2])
    if port > MAX_PORT:
        return HTTPS_PORT  # The step refuses it by name; here it would keep all policies from being written.
    return port or (HTTP_PORT if scheme == "http" else HTTPS_PORT)


def _split(address: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address; 0 where there is no port."""
    if address.count(":") > 1 and not address.startswith("["):
        return address, 0
    found = ADDRESS.fullmatch(address)
    return (found[1].strip("[]"), int(found[2] or 0)) if found else (address, 0)


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
