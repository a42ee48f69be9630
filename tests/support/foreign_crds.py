"""CustomResourceDefinitions of other projects, out of their Go modules: what their users' API servers check against."""

import shutil
import subprocess
from pathlib import Path

from dev.cluster.build import BuildFailed
from tests.support.json_stream import read_documents

CRDS = {
    "github.com/argoproj/argo-cd/v3@v3.1.0": ("manifests/crds/application-crd.yaml",),
    "github.com/fluxcd/source-controller@v1.7.0": ("config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",),
    "github.com/fluxcd/helm-controller@v1.4.0": ("config/crd/bases/helm.toolkit.fluxcd.io_helmreleases.yaml",),
    "github.com/fluxcd/kustomize-controller@v1.9.0": (
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}
"""Module and version to the files in it. Go's own cache keeps the modules and checks their digests."""


def foreign_crds() -> list[Path]:
    """All of them, downloaded once; raises BuildFailed."""
    if shutil.which("go") is None:
        raise BuildFailed("the CRDs of Argo CD, Flux and Prometheus come as Go modules: apt-get install golang")
    command = ["go", "mod", "download", "-json", *CRDS]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise BuildFailed(f"modules with CRDs could not be downloaded:\n{done.stdout}{done.stderr}")
    folders = {f"{each['Path']}@{each['Version']}": Path(each["Dir"]) for each in read_documents(done.stdout)}
    return [folders[module] / name for module, names in CRDS.items() for name in names]
