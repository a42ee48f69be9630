"""``python -m dev.cluster up|down|status|kubectl …``: a real Kubernetes on this machine; see ``make cluster-up``."""

import argparse
import os
import subprocess
import sys

from dev.cluster import node
from dev.cluster.build import BuildFailed
from dev.cluster.cluster import PORTS_RECORD, Cluster, state_folder
from dev.cluster.processes import StartFailed

EPILOG = """examples:
  python -m dev.cluster up                    the whole of it: control plane and, for root, a node
  python -m dev.cluster up --control-plane    the control plane alone
  python -m dev.cluster kubectl get pods -A
  K8S_MINOR=1.36 python -m dev.cluster up     another minor
  export KUBECONFIG=$(python -m dev.cluster kubeconfig)"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.cluster",
        description="A real Kubernetes, built from Go modules, on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what does not run yet")
    up.add_argument("--control-plane", action="store_true", help="without a node: no root needed")
    commands.add_parser("down", help="end everything and remove every trace")
    commands.add_parser("status", help="what runs")
    commands.add_parser("kubeconfig", help="path of the administrator's kubeconfig")
    kubectl = commands.add_parser("kubectl", help="kubectl against this cluster")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def open_cluster(*, with_node: bool | None = None) -> Cluster:
    """The cluster in the usual folder; what it is made of was decided when it started."""
    folder = state_folder()
    started = (folder / PORTS_RECORD).exists() or (folder / "node").exists()
    found = (folder / "node").exists() if started or with_node is None else with_node
    return Cluster(folder, with_node=found)


def start(*, control_plane: bool) -> None:
    """Bring a cluster up, and say how to use it."""
    with_node = not control_plane and os.getuid() == 0
    if not control_plane and not with_node:
        sys.stderr.write("==> Not root, so no node: the control plane alone\n")
    if with_node:
        node.install_packages()
    cluster = open_cluster(with_node=with_node)
    cluster.up()
    sys.stderr.write(f"==> Kubernetes is up: export KUBECONFIG={cluster.kubeconfig}\n")


def show_status() -> int:
    """Name and process id of each component; 1 when nothing runs."""
    cluster = open_cluster()
    running = cluster.processes.running()
    for name, pid in running.items():
        sys.stdout.write(f"{name:24} {pid}\n")
    if not running:
        sys.stdout.write("no cluster runs; start one: make cluster-up\n")
        return 1
    sys.stdout.write(f"API server {'answers' if cluster.is_ready() else 'does not answer'} at {cluster.site.url}\n")
    sys.stdout.write(f"export KUBECONFIG={cluster.kubeconfig}\n")
    return 0


def main() -> int:
    """Parse and do."""
    arguments = build_parser().parse_args()
    try:
        match arguments.command:
            case "up":
                start(control_plane=arguments.control_plane)
            case "down":
                open_cluster().down()
            case "status":
                return show_status()
            case "kubeconfig":
                sys.stdout.write(f"{open_cluster().kubeconfig}\n")
            case _:
                cluster = open_cluster()
                command = [str(cluster.binary), "kubectl", "--kubeconfig", str(cluster.kubeconfig)]
                os.execv(command[0], [*command, *arguments.arguments])  # noqa: S606 (kubectl takes this terminal over)
    except (BuildFailed, StartFailed, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{error}\n{error.stderr or ''}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
