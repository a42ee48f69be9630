"""What a cluster is built from: every version in this one place.

``make cluster-lock`` writes the module files of a Kubernetes version that is new here.
"""

import os
from dataclasses import dataclass

KUBERNETES = {"1.37": "1.37.2", "1.36": "1.36.3"}
"""Supported minors and the patch release of each."""
DEFAULT_MINOR = "1.37"


@dataclass(frozen=True)
class Tool:
    """A program of the Go module proxy."""

    package: str
    version: str


TOOLS = {
    "coredns": Tool("github.com/coredns/coredns", "v1.15.0"),
    "local-path-provisioner": Tool("github.com/rancher/local-path-provisioner", "v0.0.30"),
    "metrics-server": Tool("sigs.k8s.io/metrics-server/cmd/metrics-server", "v0.9.0"),
    "kwok": Tool("sigs.k8s.io/kwok/cmd/kwok", "v0.8.0"),
    "helm": Tool("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "kubeconform": Tool("github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0"),
}


def chosen_version() -> str:
    """The Kubernetes version that ``K8S_MINOR`` names; raises ValueError for one that is not supported."""
    minor = os.environ.get("K8S_MINOR") or DEFAULT_MINOR
    if minor not in KUBERNETES:
        raise ValueError(f"K8S_MINOR must be one of {', '.join(KUBERNETES)}, not {minor}")
    return KUBERNETES[minor]
