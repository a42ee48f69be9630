"""`make cluster-demo`: the demo on a real Kubernetes, with the project's own images and chart.

The cluster is the development cluster of dev/cluster; the model comes from the same hub as in `make demo`, which the
node reaches through its link to this machine.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from dev.cluster import build, node
from dev.cluster.cluster import Cluster, state_folder
from dev.cluster.processes import StartFailed
from dev.demo import stage
from dev.demo.stage import BUILD, OWN_MODEL, ROOT, DemoFailed, Timings, say
from dev.images.build import build_images, describe

NAMESPACE, SYSTEM, RELEASE = "demo", "slm-system", "slm-operator"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
VISITOR = "visitor"
"""A Pod that looks at the service from inside, and at the store."""
GATEWAY = f"http://{RELEASE}-gateway.{SYSTEM}.svc"
"""The one address for all services, as pods see it."""
AUDIENCE, TOKEN = "slm.dev", "/var/run/secrets/slm.dev/token"
"""What the gateway wants to be shown: a service account's token that was made for it."""
CALLERS: list[dict[str, Any]] = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "callers"},
        "rules": [{"apiGroups": ["slm.dev"], "resources": ["inferenceservices"], "verbs": ["use"]}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "callers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "callers"},
        "subjects": [{"kind": "ServiceAccount", "name": "default"}],
    },
]
"""Lets pods of a namespace, which run as its default account, ask its services."""
ASK_INSIDE = """
import json, sys, urllib.request
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + open(sys.argv[3]).read()}
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), headers)
print(json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]["message"]["content"].strip())
"""


class Stage:
    """The cluster on which the demo is played."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.images: dict[str, str] = {}
        """References by name of the image."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of kubectl in the demo's namespace; raises DemoFailed with what it said."""
        try:
            return self.cluster.kubectl("-n", NAMESPACE, *arguments, stdin=stdin)
        except subprocess.CalledProcessError as error:
            raise DemoFailed(f"kubectl {' '.join(arguments)}: {error.stderr or error.stdout}") from error

    def get(self, kind: str) -> dict[str, Any]:
        """The demo's object of a kind."""
        document: dict[str, Any] = json.loads(self.kubectl("get", kind, "demo", "-o", "json"))
        return document

    def load_images(self) -> None:
        """Build what has changed, and give the node what it does not hold yet."""
        held = self.cluster.node.ctr("images", "list", "-q").split()
        for name, archive in build_images().items():
            self.images[name] = describe(archive).reference
            if self.images[name] not in held:
                self.cluster.load_image(archive)

    def install(self, endpoint: str) -> None:
        """The chart, with these images and this hub."""
        values: dict[str, Any] = {"hub": {"endpoint": endpoint, "allowPrivateHosts": [urlsplit(endpoint).hostname]}}
        names = {"operator": "slm-operator", "pipelines": "slm-pipelines", "llamaCpp": "llama-cpp"}
        values["images"] = {
            value: dict(zip(("repository", "tag"), self.images[name].rsplit(":", 1), strict=True))
            for value, name in names.items()
        }
        command = [str(build.tool("helm")), "upgrade", "--install", RELEASE, str(ROOT / "charts" / "slm-operator")]
        command += ["--namespace", SYSTEM, "--create-namespace", "--values", "-", "--wait", "--timeout", "3m"]
        # The cluster is for development: its CRDs may come from `kubectl apply`, and of another version.
        command += ["--take-ownership", "--force-conflicts"]
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        done = subprocess.run(
            command, input=json.dumps(values), env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoFailed(f"helm: {done.stderr}\nThe operator says: {self.operator_log()}")

    def operator_log(self) -> str:
        """The end of the operator's log, or why there is none."""
        try:
            return self.cluster.kubectl("logs", "-n", SYSTEM, "deployment/slm-operator", "--tail=5", "--ignore-errors")
        except subprocess.CalledProcessError as error:
            return str(error.stderr)

    def apply(self, repo: str) -> None:
        """The namespace, which enforces PSS restricted, and the three manifests."""
        meta = {"name": NAMESPACE, "labels": RESTRICTED}
        self.cluster.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        )
        folder = stage.write_manifests(repo)
        stage.console.print(
            self.kubectl("apply", "-k" if (folder / "kustomization.yaml").exists() else "-f", str(folder)), end=""
        )

    def visit(self) -> None:
        """Start the Pod that looks from inside, and may ask."""
        manifests = [*CALLERS, visitor(self.images["slm-pipelines"])]
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)))
        self.kubectl("wait", f"pod/{VISITOR}", "--for=condition=Ready", "--timeout=120s")

    def ask_inside(self, base: str = GATEWAY) -> str:
        """A chat answer from another Pod, through the gateway or straight from a service."""
        url, body = f"{base}/v1/chat/completions", json.dumps({**stage.question(), "model": "demo"})
        return self.kubectl("exec", VISITOR, "--", "python3", "-c", ASK_INSIDE, url, body, TOKEN).strip()

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[str]:
        """Base address of the service on this machine, through kubectl port-forward."""
        port = stage.free_port(0)
        command = [str(self.cluster.binary), "kubectl", "--kubeconfig", str(self.cluster.kubeconfig), "-n", NAMESPACE]
        command += ["port-forward", "service/demo", f"{port}:80"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            for _ in range(100):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()

    def save_report(self) -> Path:
        """The report out of the namespace's store."""
        digest = self.get("QuantJob")["status"]["reportHtml"].removeprefix("sha256:")
        target = BUILD / "report.html"
        target.write_text(self.kubectl("exec", VISITOR, "--", "cat", f"/store/blobs/sha256/{digest}"))
        return target


def visitor(image: str) -> dict[str, Any]:
    """A Pod under PSS restricted that mounts the store to read it, and holds a token for the gateway."""
    security = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
    token = {"path": Path(TOKEN).name, "audience": AUDIENCE}
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "3600"],
        "volumeMounts": [
            {"name": "store", "mountPath": "/store", "readOnly": True},
            {"name": "token", "mountPath": str(Path(TOKEN).parent), "readOnly": True},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": VISITOR},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {**security, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "store", "persistentVolumeClaim": {"claimName": "slm-store", "readOnly": True}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            ],
            "containers": [container],
        },
    }


def run(cluster: Cluster) -> None:
    """The demo from end to end, on a cluster that may run already."""
    if os.getuid() != 0:
        raise DemoFailed("a node needs root: run this as root, or `make demo` without a cluster")
    timings, repo = Timings(), os.environ.get("DEMO_MODEL") or OWN_MODEL
    BUILD.mkdir(parents=True, exist_ok=True)
    say("Starting a real one-node Kubernetes (built from Go modules, once)")
    node.install_packages()
    cluster.up()
    play = Stage(cluster)
    timings.mark("cluster")
    say("Building the images that have changed, and loading them")
    play.load_images()
    timings.mark("images")
    stage.train_model(BUILD / "hub")
    timings.mark("train")
    hub, endpoint = stage.start_hub(BUILD / "hub", cluster.host_address)
    try:
        finish(play, repo, endpoint, timings)
    finally:
        hub.terminate()
        hub.wait()


def finish(play: Stage, repo: str, endpoint: str, timings: Timings) -> None:
    """Everything after cluster, images and hub are there."""
    say(f"Hub at {endpoint}; installing the chart, applying examples/demo")
    play.install(endpoint)
    timings.mark("install")
    play.apply(repo)
    stage.watch_progress(play.get)
    timings.mark("reconcile")
    play.visit()
    inside = play.ask_inside()
    with play.forwarded() as address:
        outside = stage.ask(address)
    if inside != outside:
        raise DemoFailed(f"from inside the answer is {inside!r}, through port-forward it is {outside!r}")
    timings.mark("chat")
    result = stage.collect_result(play.get, repo, outside, timings.seconds)
    stage.tell_result(result, play.save_report())
    say(f"Look around: export KUBECONFIG={play.cluster.kubeconfig}; kubectl -n {NAMESPACE} get slm,qj,slmsvc,pods")
    say("The cluster stays up; end it with: make cluster-down")


def main() -> int:
    """Parse arguments, run, say what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", type=Path, default=state_folder(), help="state folder of the cluster")
    parser.add_argument("--name", default="dev", help="name of the cluster: each on one machine has its own")
    args = parser.parse_args()
    try:
        run(Cluster(args.cluster, with_node=True, name=args.name))
    except (DemoFailed, StartFailed, build.BuildFailed, subprocess.CalledProcessError, httpx.HTTPError) as error:
        detail = getattr(error, "stderr", "") or ""
        stage.console.print(f"[bold red]The demo failed:[/] {error} {detail}", highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
