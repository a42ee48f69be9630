"""What every pod of ours has in common: no rights, no writable root, no address book, one folder for what is stored."""

from dataclasses import dataclass, field
from typing import Literal

from slm_operator.api.meta import Scheduling
from slm_operator.core.manifests.network import LABEL_NETWORK, Network
from slm_operator.core.placement import ClusterPods, Placement
from slm_operator.core.plan import Manifest
from slm_operator.core.quantity import parse_quantity

STORE_VOLUME, TEMPORARY_VOLUME = "store", "tmp"
SHARED_MEMORY_VOLUME, SHARED_MEMORY_FOLDER = "shm", "/dev/shm"  # noqa: S108 - the pod's own, an emptyDir
TEMPORARY_FOLDER = "/tmp"  # noqa: S108 - the pod's own, an emptyDir


@dataclass(frozen=True)
class PodDemands:
    """What some pods need beside what every pod of ours has."""

    tolerations: tuple[Manifest, ...] = ()
    """Beside the user's own."""
    node_expressions: tuple[Manifest, ...] | None = None
    """Label requirements of nodes, all of which must hold; None where there never are any."""
    claims: tuple[Manifest, ...] = ()
    """``resourceClaims``: devices of DRA drivers."""
    shared_memory: str = ""
    """Size of ``/dev/shm``, a quantity; empty for what the container runtime gives (64 MiB)."""
    temporary_storage: str = ""
    """Most that is written to ``/tmp``, a quantity; empty for the setting's."""


@dataclass(frozen=True)
class PodShape:
    """How pods of one kind of child differ from others."""

    network: Network
    """Which network policy holds."""
    store: Literal["none", "read", "write"]
    """What is mounted. Steps that only read write all the same: they take the store's lock."""
    restart_policy: Literal["Never", "Always"]
    grace_seconds: int
    """Time between SIGTERM and SIGKILL, seconds; a sleep before SIGTERM counts."""
    scheduling: Scheduling = field(default_factory=Scheduling)
    demands: PodDemands = field(default_factory=PodDemands)


def build_pod_template(
    shape: PodShape, container: Manifest, placement: Placement, labels: dict[str, str], annotations: dict[str, str]
) -> Manifest:
    """The template of a pod with one container; the local backend runs the container and needs nothing else."""
    pods = placement.pods
    if pods is None:
        spec: Manifest = {"containers": [container]}
    else:
        labels = {**labels, LABEL_NETWORK: shape.network}
        spec = _build_pod_spec(shape, _confine(container, shape, placement.store), pods)
    # The local backend's default grace suits steps; engines finish what they are answering.
    timing = {"terminationGracePeriodSeconds": shape.grace_seconds} if pods or shape.restart_policy == "Always" else {}
    restart = {"restartPolicy": "Never"} if shape.restart_policy == "Never" else {}
    metadata = {"labels": labels} | ({"annotations": annotations} if annotations else {})
    return {"metadata": metadata, "spec": {**restart, **timing, **spec}}


def _build_pod_spec(shape: PodShape, container: Manifest, pods: ClusterPods) -> Manifest:
    """Admitted where Pod Security Standards enforce ``restricted``, and without a service account's rights."""
    demands = shape.demands
    temporary = max(demands.temporary_storage or "0", pods.temporary_storage, key=parse_quantity)
    volumes: list[Manifest] = [{"name": TEMPORARY_VOLUME, "emptyDir": {"sizeLimit": temporary}}]
    if demands.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": demands.shared_memory}
        volumes.append({"name": SHARED_MEMORY_VOLUME, "emptyDir": memory})
    if shape.store != "none":
        claim = {"claimName": pods.claim} | ({"readOnly": True} if shape.store == "read" else {})
        volumes.append({"name": STORE_VOLUME, "persistentVolumeClaim": claim})
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pods.user,
            "runAsGroup": pods.user,
            "fsGroup": pods.user,
            # Walking over a large store at each start would take minutes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in pods.image_pull_secrets],
        **_build_scheduling(shape.scheduling, demands),
        "containers": [{**container, "imagePullPolicy": pods.image_pull_policy}],
        "volumes": volumes,
        **({"resourceClaims": list(demands.claims)} if demands.claims else {}),
    }


def _build_scheduling(scheduling: Scheduling, demands: PodDemands) -> Manifest:
    """Written also where they are empty: what the user takes away must go."""
    tolerations = [item.model_dump(by_alias=True, exclude_defaults=True) for item in scheduling.tolerations]
    written: Manifest = {
        "nodeSelector": scheduling.node_selector,
        "tolerations": tolerations + [item for item in demands.tolerations if item not in tolerations],
        "priorityClassName": scheduling.priority_class_name,
    }
    if demands.node_expressions:
        terms = [{"matchExpressions": list(demands.node_expressions)}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        written["affinity"] = {"nodeAffinity": required}
    elif demands.node_expressions is not None:
        written["affinity"] = {}
    return written


def _confine(container: Manifest, shape: PodShape, store: str) -> Manifest:
    mounts: list[Manifest] = [{"name": TEMPORARY_VOLUME, "mountPath": TEMPORARY_FOLDER}]
    if shape.store != "none":
        read_only = {"readOnly": True} if shape.store == "read" else {}
        mounts.append({"name": STORE_VOLUME, "mountPath": store} | read_only)
    if shape.demands.shared_memory:
        mounts.append({"name": SHARED_MEMORY_VOLUME, "mountPath": SHARED_MEMORY_FOLDER})
    return {
        **container,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
