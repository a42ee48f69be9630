"""etcd, API server, controller manager and scheduler as plain processes: no root, no container."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.certificates import Authority, write_signing_pair

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS, DNS_ADDRESS = "10.96.0.1", "10.96.0.10"
"""First addresses of the range: the API server's own Service, and by custom the DNS server's."""
POD_RANGE = "10.244.0.0/16"
CLIENT_RATE = ("--kube-api-qps", "1000", "--kube-api-burst", "2000")
"""Calls per second to the API server. By default controllers hold themselves to 20: a thousand Deployments would take
minutes, whatever asked for them."""
ISSUER = "https://kubernetes.default.svc"
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", SERVICE_ADDRESS, "127.0.0.1")


@dataclass(frozen=True)
class Ports:
    """Where the control plane listens."""

    api: int
    etcd: int
    etcd_peer: int
    controllers: int
    scheduler: int


@dataclass(frozen=True)
class Site:
    """One cluster's folder, binary and addresses."""

    folder: Path
    binary: Path
    address: str
    """IP address by which the API server is reached, also from pods."""
    ports: Ports

    @property
    def url(self) -> str:
        """The API server."""
        return f"https://{self.address}:{self.ports.api}"

    @property
    def certificates(self) -> Path:
        """Folder of certificates and keys."""
        return self.folder / "certificates"

    def kubeconfig(self, user: str) -> Path:
        """File by which a user connects."""
        return self.folder / f"{user}.kubeconfig"


USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}
"""File stem to user and group, as kubeadm names them: Kubernetes' default RBAC bindings fit."""


def write_credentials(site: Site, users: dict[str, tuple[str, str]]) -> Authority:
    """Certificates for servers and users, and a kubeconfig for each user; returns who signs further ones."""
    authority = Authority(site.certificates)
    authority.issue("api", "kube-apiserver", hosts=[*NAMES, site.address])
    authority.issue("api-to-kubelet", "kube-apiserver-kubelet-client", "system:masters")
    authority.issue("front-proxy", "front-proxy")
    write_signing_pair(site.certificates)
    for name, (user, group) in users.items():
        certificate, key = authority.issue(name, user, group)
        write_kubeconfig(site, name, certificate, key)
    return authority


def write_kubeconfig(site: Site, name: str, certificate: Path, key: Path) -> None:
    """A kubeconfig that names its files by absolute path."""
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "slm",
                "cluster": {"server": site.url, "certificate-authority": str(site.certificates / "ca.crt")},
            }
        ],
        "users": [{"name": name, "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
        "contexts": [{"name": "slm", "context": {"cluster": "slm", "user": name}}],
        "current-context": "slm",
    }
    path = site.kubeconfig(name)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def etcd_command(site: Site) -> list[str]:
    """Data in memory-speed mode: a lost machine loses the cluster anyway."""
    client, peer = f"http://127.0.0.1:{site.ports.etcd}", f"http://127.0.0.1:{site.ports.etcd_peer}"
    return [
        *(str(site.binary), "etcd", "--data-dir", str(site.folder / "etcd"), "--unsafe-no-fsync"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}", "--log-level", "warn"),
    ]


def api_command(site: Site) -> list[str]:
    """RBAC and node authorization on, anonymous access only as Kubernetes' defaults have it."""
    folder = site.certificates
    # A loopback address cannot be the endpoint of a Service; without pods nobody needs one.
    alone = site.address == "127.0.0.1"
    advertise = ("--endpoint-reconciler-type", "none") if alone else ("--advertise-address", site.address)
    return [
        *(str(site.binary), "kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{site.ports.etcd}"),
        *("--secure-port", str(site.ports.api), "--bind-address", site.address, *advertise),
        *("--tls-cert-file", f"{folder}/api.crt", "--tls-private-key-file", f"{folder}/api.key"),
        *("--client-ca-file", f"{folder}/ca.crt"),
        *("--kubelet-certificate-authority", f"{folder}/ca.crt"),
        *("--kubelet-client-certificate", f"{folder}/api-to-kubelet.crt"),
        *("--kubelet-client-key", f"{folder}/api-to-kubelet.key"),
        *("--kubelet-preferred-address-types", "InternalIP"),
        *("--service-cluster-ip-range", SERVICE_RANGE, "--service-account-issuer", ISSUER),
        *("--service-account-key-file", f"{folder}/service-accounts.pub"),
        *("--service-account-signing-key-file", f"{folder}/service-accounts.key"),
        *("--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"),
        *("--requestheader-client-ca-file", f"{folder}/ca.crt", "--requestheader-allowed-names", "front-proxy"),
        *("--requestheader-extra-headers-prefix", "X-Remote-Extra-", "--requestheader-group-headers", "X-Remote-Group"),
        *("--requestheader-username-headers", "X-Remote-User"),
        *(
            "--proxy-client-cert-file",
            f"{folder}/front-proxy.crt",
            "--proxy-client-key-file",
            f"{folder}/front-proxy.key",
        ),
        *("--enable-aggregator-routing", "--allow-privileged", "--profiling=false"),
    ]


def controllers_command(site: Site) -> list[str]:
    """Every controller, quicker than the defaults to notice a node that is gone."""
    folder = site.certificates
    return [
        *(str(site.binary), "kube-controller-manager", "--kubeconfig", str(site.kubeconfig("controllers"))),
        *("--secure-port", str(site.ports.controllers), "--bind-address", "127.0.0.1", "--leader-elect=false"),
        *("--use-service-account-credentials", "--root-ca-file", f"{folder}/ca.crt"),
        *("--service-account-private-key-file", f"{folder}/service-accounts.key"),
        *CLIENT_RATE,
        *("--cluster-cidr", POD_RANGE, "--allocate-node-cidrs=true", "--service-cluster-ip-range", SERVICE_RANGE),
        *("--cert-dir", str(site.folder / "controllers")),
    ]


def scheduler_command(site: Site) -> list[str]:
    """The scheduler with its defaults, but for its pace."""
    return [
        *(str(site.binary), "kube-scheduler", "--kubeconfig", str(site.kubeconfig("scheduler"))),
        *("--secure-port", str(site.ports.scheduler), "--bind-address", "127.0.0.1", "--leader-elect=false"),
        *("--cert-dir", str(site.folder / "scheduler"), *CLIENT_RATE),
    ]


COMMANDS: dict[str, Callable[[Site], list[str]]] = {
    "etcd": etcd_command,
    "kube-apiserver": api_command,
    "kube-controller-manager": controllers_command,
    "kube-scheduler": scheduler_command,
}
"""The parts of a control plane, in the order they start."""
