"""A namespace of a real API server in which the chart is installed, and what may be asked there."""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.cluster import Cluster
from dev.rendering import CHART, RELEASE, Manifest, helm
from tests.support.json_stream import read_documents

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
WAIT_SECONDS = 180


@dataclass(frozen=True)
class Right:
    """One question to the API server's authorizer."""

    verb: str
    resource: str
    """``group/resource`` or ``group/resource/subresource``; the core group is ``core``."""
    namespace: str = ""
    """Empty: cluster-wide."""
    name: str = ""


@dataclass(frozen=True)
class Site:
    """Where a release is installed."""

    cluster: Cluster
    namespace: str

    def make_namespace(self, name: str) -> None:
        """A namespace under PSS restricted."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})

    def apply(self, *documents: Manifest) -> None:
        """Server-side apply, as an administrator."""
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def helm(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Helm against this namespace."""
        where = ("--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace)
        if values is None:
            return helm(*arguments, *where)
        return helm(*arguments, *where, "--values", "-", stdin=yaml.safe_dump(values))

    def install(self, values: Mapping[str, Any], chart: Path = CHART) -> str:
        """A new release; there is no node, so nothing to wait for."""
        return self.helm("install", RELEASE, str(chart), values=values)

    def upgrade(self, values: Mapping[str, Any], chart: Path = CHART) -> str:
        """The release, which may not exist yet, with another chart or other values.

        Helm takes the values of before where none are given; here none means the defaults.
        """
        return self.helm("upgrade", "--install", "--reset-values", RELEASE, str(chart), values=values)

    def get(self, kind: str, name: str, *options: str) -> Manifest:
        """An object; raises CalledProcessError when there is none."""
        found: Manifest = json.loads(
            self.cluster.kubectl("get", kind, name, "-o", "json", *(options or ("-n", self.namespace)))
        )
        return found

    def names(self, *arguments: str) -> set[str]:
        """``kind/name`` of what ``kubectl get`` lists."""
        return set(self.cluster.kubectl("get", *arguments, "-o", "name").split())

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Return once it holds; controllers take a moment."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def allowed(self, user: str, rights: Iterable[Right], groups: Iterable[str] = ()) -> list[bool]:
        """What the authorizer says to each question, in one call."""
        reviews = [
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user,
                    "groups": [*groups, "system:authenticated"],
                    "resourceAttributes": _attributes(right),
                },
            }
            for right in rights
        ]
        text = self.cluster.kubectl("create", "-o", "json", "-f", "-", stdin=yaml.safe_dump_all(reviews))
        return [review["status"]["allowed"] for review in read_documents(text)]


def _attributes(right: Right) -> dict[str, str]:
    group, resource, *rest = right.resource.split("/")
    found = {"verb": right.verb, "group": "" if group == "core" else group, "resource": resource}
    found |= {"subresource": rest[0]} if rest else {}
    found |= {"namespace": right.namespace} if right.namespace else {}
    return found | ({"name": right.name} if right.name else {})


def environment_of(documents: Iterable[Manifest], component: str = "operator") -> dict[str, str]:
    """The settings of a part as its Deployment says them, but for those that only a pod knows."""
    (deployment,) = [
        each
        for each in documents
        if each["kind"] == "Deployment" and each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def account(namespace: str, name: str = RELEASE) -> str:
    """User name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


def refusal(action: Callable[[], object]) -> str:
    """What a command says when it is refused; fails when it is not."""
    try:
        action()
    except subprocess.CalledProcessError as refused:
        return str(refused.stderr)
    raise AssertionError("it was not refused")
