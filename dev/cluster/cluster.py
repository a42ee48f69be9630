"""A whole cluster, up and down: the control plane alone, or with a node that runs containers."""

import json
import os
import shutil
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.error import URLError

from dev.cluster import build, control_plane, node
from dev.cluster.access import Access
from dev.cluster.control_plane import Ports, Site
from dev.cluster.images import Image, write_archive
from dev.cluster.processes import Processes
from dev.cluster.versions import chosen_version

ADDONS = Path(__file__).parent / "addons"
LINK_RANGE = "10.246"
"""First half of the addresses of links between the host and nodes; no other network is reached."""
NODE_PORTS = Ports(api=6443, etcd=2379, etcd_peer=2380, controllers=10257, scheduler=10259)
CONTROL_PLANE = tuple(control_plane.COMMANDS)
IN_PODS = ("coredns", "local-path-provisioner", "metrics-server")
"""Tools that run as pods, each as the only program of an image."""
BUSYBOX_NAMES = ("busybox", "sh", "mkdir", "rm", "cat", "sleep", "wget", "nc", "nslookup")
READY_SECONDS = 240
PORTS_RECORD = "ports.json"
"""Written by `up`: it also says that a cluster has no node."""


def state_folder() -> Path:
    """Where clusters keep their files while they run; ``SLM_CLUSTER_HOME`` moves it."""
    own, xdg = os.environ.get("SLM_CLUSTER_HOME"), os.environ.get("XDG_STATE_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "state"
    return Path(own) if own else base / "slm-operator" / "dev-cluster"


class Cluster(Access):
    """One cluster in one folder, all of it ours: also what makes it up can be started and stopped."""

    def __init__(self, folder: Path, *, with_node: bool, name: str = "dev") -> None:
        self.folder = folder
        self.with_node = with_node
        self._version = chosen_version()
        self.binary = build.kubernetes_path(self._version)  # Built by `up`: to ask or to end needs no build.
        self.processes = Processes(folder)
        number = zlib.crc32(name.encode()) % 256  # Clusters of different names can run side by side.
        self.host_address = f"{LINK_RANGE}.{number}.1"
        address = f"{LINK_RANGE}.{number}.2" if with_node else "127.0.0.1"
        self.site = Site(folder, self.binary, address, self._ports())
        self.node = node.Node(self.site, name)
        super().__init__(self.site.kubeconfig("admin"), [str(self.binary), "kubectl"])

    def up(self) -> None:
        """Start what does not run yet, and return once all of it works; raises StartFailed."""
        build.kubernetes(self._version)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.with_node:  # Again after a reboot, which takes the network and what lies below /run away.
            self.node.folder.mkdir(exist_ok=True)
            self.node.make_network(self.host_address)
            self.node.write_files()
        else:
            (self.folder / PORTS_RECORD).write_text(json.dumps(asdict(self.site.ports)))
        if not (self.site.certificates / "kubelet.crt").exists():
            self._write_credentials()
        self.start_control_plane()
        if self.with_node:
            self._start_node()

    def start_control_plane(self) -> None:
        """Etcd first, then the API server, then those who need it."""
        for name in CONTROL_PLANE:
            self._start(name)
            if name == "kube-apiserver":
                self.processes.wait(name, self.is_ready)

    def start_component(self, name: str) -> None:
        """Start a part of the control plane and return once the API server answers, if it runs; raises StartFailed."""
        self._start(name)
        if "kube-apiserver" in self.processes.running():
            self.processes.wait(name, self.is_ready)

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """End a part of the control plane, by SIGTERM or, with ``kill``, by SIGKILL; what it stored stays."""
        if kill:
            self.processes.kill(name)
        else:
            self.processes.stop(name)

    def restart_component(self, name: str, *, kill: bool = False) -> None:
        """End it and start it again; raises StartFailed."""
        self.stop_component(name, kill=kill)
        self.start_component(name)

    def _start(self, name: str) -> None:
        command = control_plane.COMMANDS[name](self.site)
        self.processes.start(name, self.node.inside(command) if self.with_node else command)

    def down(self) -> None:
        """End everything and remove every trace; a second call does nothing."""
        beside = set(self.processes.running()) - {*CONTROL_PLANE, "containerd"}
        self.processes.stop(*sorted(beside))  # kwok, or kubelet and kube-proxy.
        if self.with_node:
            self.node.end_pods()
            self.processes.stop("containerd")
        self.processes.stop(*reversed(CONTROL_PLANE))
        if self.with_node:
            self.node.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_ready(self) -> bool:
        """Whether the API server says so."""
        context = ssl.create_default_context(cafile=str(self.site.certificates / "ca.crt"))
        certificates = self.site.certificates
        context.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
        try:
            with urllib.request.urlopen(f"{self.site.url}/readyz", context=context, timeout=2) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004
        except (URLError, OSError):
            return False

    def load_image(self, archive: Path) -> None:
        """Give the node an image from an OCI or Docker archive."""
        self.node.ctr("images", "import", str(archive))

    def _ports(self) -> Ports:
        """Fixed inside a namespace; else free ones, kept for as long as the cluster lives."""
        if self.with_node:
            return NODE_PORTS
        record = self.folder / PORTS_RECORD
        return Ports(**json.loads(record.read_text())) if record.exists() else Ports(*free_ports(5))

    def _write_credentials(self) -> None:
        users = dict(control_plane.USERS)
        hosts = [self.site.address, node.NAME]
        if self.with_node:
            users["node"] = (f"system:node:{node.NAME}", "system:nodes")
        authority = control_plane.write_credentials(self.site, users)
        authority.issue("kubelet", f"system:node:{node.NAME}", "system:nodes", hosts)  # Last: it says all is there.

    def _start_node(self) -> None:
        commands = self.node.commands()
        self.processes.start("containerd", commands["containerd"])
        self.processes.wait("containerd", self.node.socket.exists)
        self._load_own_images()
        self.processes.start("kubelet", commands["kubelet"])
        for path in sorted(ADDONS.glob("*.yaml")):
            volumes = str(self.folder / "volumes")
            self.kubectl("apply", "--server-side", "-f", "-", stdin=path.read_text().replace("$VOLUMES", volumes))
        self.processes.wait("kubelet", self._node_exists)
        self.processes.start("kube-proxy", commands["kube-proxy"])
        self.kubectl("wait", "--for=condition=Ready", f"node/{node.NAME}", f"--timeout={READY_SECONDS}s")
        self.kubectl("rollout", "status", "deployment", "-n", "kube-system", f"--timeout={READY_SECONDS}s")

    def _node_exists(self) -> bool:
        return node.NAME in self.kubectl("get", "nodes", "-o", "name")

    def _load_own_images(self) -> None:
        marker = self.folder / "images-loaded"
        if marker.exists():
            return
        busybox = Path(shutil.which("busybox") or "/bin/busybox")
        images = [Image("slm.local/busybox:1", {f"bin/{name}": busybox for name in BUSYBOX_NAMES}, ["/bin/sh"])]
        images.append(Image(node.PAUSE_IMAGE, {"bin/sleep": busybox}, ["/bin/sleep", "2147483647"]))
        for name, program in build.tools(IN_PODS).items():
            images.append(Image(f"slm.local/{name}:1", {f"bin/{name}": program}, [f"/bin/{name}"]))
        for image in images:
            archive = self.folder / "image.tar"
            write_archive(image, archive)
            self.load_image(archive)
            archive.unlink()
        marker.touch()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def cluster_in(folder: Path, *, with_node: bool, name: str = "test") -> Iterator[Cluster]:
    """A cluster for tests, gone afterwards."""
    cluster = Cluster(folder, with_node=with_node, name=name)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
