"""One real node: containerd, kubelet and kube-proxy in a network namespace of their own.

Bridges, iptables rules and listening ports stay inside the namespace, pods below one cgroup, files below the cluster's
folder: what ``remove`` takes away is all there ever was.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from dev import apt
from dev.cluster.control_plane import DNS_ADDRESS, POD_RANGE, Site

PACKAGES = ("containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "iproute2", "busybox-static")
"""Debian packages a node is made of."""
PROGRAMS = ("containerd", "runc", "iptables", "conntrack", "ip", "nsenter", "busybox")
CNI_PLUGINS = Path("/usr/lib/cni")
NAME = "slm-node"
PAUSE_IMAGE = "slm.local/pause:1"
CGROUPS = Path("/sys/fs/cgroup")
END_SECONDS = 10.0


class Node:
    """Names and files of the node of one cluster."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.namespace = f"slm-{name}"
        self.host_link, self.node_link = f"slmh-{name}"[:15], f"slmn-{name}"[:15]
        self.run = Path("/run") / self.namespace
        self.folder = site.folder / "node"

    @property
    def socket(self) -> Path:
        """Where containerd listens: below /run, because a socket's path is short."""
        return self.run / "containerd.sock"

    def inside(self, command: list[str]) -> list[str]:
        """The command inside the node's network; ``ip netns exec`` would hide /sys/fs/cgroup."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command]

    def ctr(self, *arguments: str) -> str:
        """What containerd answers; raises CalledProcessError."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout

    def make_network(self, host_address: str) -> None:
        """The namespace and a pair of links: the host at one end, the node at the other."""
        if Path(f"/run/netns/{self.namespace}").exists():
            return
        run(f"ip netns add {self.namespace}")
        run(f"ip link add {self.host_link} type veth peer name {self.node_link} netns {self.namespace}")
        run(f"ip addr add {host_address}/30 dev {self.host_link}")
        run(f"ip link set {self.host_link} up")
        for command in (
            "ip link set lo up",
            f"ip addr add {self.site.address}/30 dev {self.node_link}",
            f"ip link set {self.node_link} up",
            f"ip route add default via {host_address}",
        ):
            run(" ".join(self.inside([command])))

    def write_files(self) -> None:
        """Configuration of all three."""
        for part in ("cni", "pod-logs", "volume-plugins"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.run.mkdir(exist_ok=True)
        write_changed(self.folder / "containerd.toml", containerd_config(self))
        write_changed(self.folder / "cni" / "10-bridge.conflist", json.dumps(cni_config(self)))
        write_changed(self.folder / "kubelet.yaml", yaml.safe_dump(kubelet_config(self)))
        write_changed(self.folder / "proxy.yaml", yaml.safe_dump(proxy_config(self)))
        for controller in controllers():
            (controller / self.namespace).mkdir(exist_ok=True)

    def commands(self) -> dict[str, list[str]]:
        """Component to command line, in the order they start."""
        binary = str(self.site.binary)
        kubelet = [binary, "kubelet", "--config", str(self.folder / "kubelet.yaml"), "--hostname-override", NAME]
        kubelet += ["--kubeconfig", str(self.site.kubeconfig("node")), "--root-dir", str(self.folder / "kubelet")]
        kubelet += ["--node-ip", self.site.address]
        proxy = [binary, "kube-proxy", "--config", str(self.folder / "proxy.yaml"), "--hostname-override", NAME]
        found = {"containerd": ["containerd", "--config", str(self.folder / "containerd.toml")]}
        found |= {"kubelet": kubelet, "kube-proxy": proxy}
        return {name: self.inside(command) for name, command in found.items()}

    def end_pods(self) -> None:
        """Kill what runs in pods and the shims that watch over it, and remove the pods' networks."""
        networks = self._pod_networks()
        deadline = time.monotonic() + END_SECONDS
        while (left := [*self._pod_processes(), *self._shims()]) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for name in networks:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def remove(self) -> None:
        """Mounts, cgroups, network and run folder; the cluster's folder is removed by its owner."""
        ours = [point for point in mounts() if any(point.is_relative_to(root) for root in (self.folder, self.run))]
        for mount in reversed(ours):
            subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)
        for controller in controllers():
            for path, _, _ in os.walk(controller / self.namespace, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)
        shutil.rmtree(self.run, ignore_errors=True)

    def _pod_networks(self) -> set[str]:
        """Names of the network namespaces that containerd made for pods."""
        found = set()
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            for container in self.ctr("containers", "ls", "--quiet").split():
                spec = json.loads(self.ctr("containers", "info", container))["Spec"]
                spaces = spec["linux"]["namespaces"]
                found |= {
                    Path(space["path"]).name for space in spaces if space["type"] == "network" and "path" in space
                }
        return found

    def _pod_processes(self) -> Iterator[int]:
        for controller in controllers():
            for path, _, files in os.walk(controller / self.namespace):  # Unlike rglob, it bears groups that vanish.
                if "cgroup.procs" in files:
                    with contextlib.suppress(OSError):
                        yield from (int(word) for word in Path(path, "cgroup.procs").read_text().split())

    def _shims(self) -> Iterator[int]:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words and "containerd-shim" in words[0] and str(self.socket) in words:
                yield process.pid


def missing_packages() -> list[str]:
    """Debian packages to install before a node can start."""
    complete = all(shutil.which(name) for name in PROGRAMS) and (CNI_PLUGINS / "bridge").exists()
    return [] if complete else list(PACKAGES)


def install_packages() -> None:
    """Install what is missing; raises CalledProcessError."""
    if missing := missing_packages():
        apt.install(missing)


def run(command: str) -> None:
    """A command of ours, by words; raises CalledProcessError with what it said."""
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


def controllers() -> list[Path]:
    """Folders below which a cgroup has to be made: one per controller, or the one of cgroup v2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def mounts() -> list[Path]:
    """Mount points, in the order they were made."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]


def write_changed(path: Path, text: str) -> None:
    """Leave a file that is right alone: kube-proxy ends itself when its configuration is written."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def containerd_config(node: Node) -> str:
    """Containerd with the CRI plug-in; restrict_oom_score_adj lets it run without CAP_SYS_RESOURCE."""
    return f"""version = 2
root = "{node.folder}/containerd"
state = "{node.run}/state"
[grpc]
  address = "{node.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{node.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{node.folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def cni_config(node: Node) -> dict[str, Any]:
    """A bridge inside the namespace; addresses are remembered in the cluster's folder."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE.replace("/16", "/24")}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(node.folder / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": "slm0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "slm", "plugins": [bridge, ports]}


def kubelet_config(node: Node) -> dict[str, Any]:
    """A kubelet that asks the API server who may do what, as a real one does."""
    certificates = node.site.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.namespace}",
        "enforceNodeAllocatable": ["pods"],
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "imageServiceEndpoint": f"unix://{node.socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificates / "kubelet.crt"),
        "tlsPrivateKeyFile": str(certificates / "kubelet.key"),
        "evictionHard": dict.fromkeys(("nodefs.available", "imagefs.available", "nodefs.inodesFree"), "1%")
        | {"memory.available": "100Mi"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_ADDRESS],
        "resolvConf": "",
        "podLogsDir": str(node.folder / "pod-logs"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "4s",
        "shutdownGracePeriod": "0s",
    }


def proxy_config(node: Node) -> dict[str, Any]:
    """kube-proxy that leaves conntrack's limits, which are the host's, alone."""
    zero = dict.fromkeys(("tcpEstablishedTimeout", "tcpCloseWaitTimeout"), "0s")
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "clientConnection": {"kubeconfig": str(node.site.kubeconfig("proxy"))},
        "conntrack": {"maxPerCore": 0, **zero},
    }
