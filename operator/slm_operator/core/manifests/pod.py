"""What every pod of ours has in common: no rights, no writable root, no address book, one folder for what is stored."""

from dataclasses import dataclass, field
from typing import Literal

from slm_operator.api.meta import Scheduling
from slm_operator.core.manifests.network import LABEL_NETWORK, Network
from slm_operator.core.placement import ClusterPods, Placement
from slm_operator.core.plan import Manifest

STORE_VOLUME, TEMPORARY_VOLUME = "store", "tmp"
TEMPORARY_FOLDER = "/tmp"  # noqa: S108 - the pod's own, an emptyDir


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
    volumes: list[Manifest] = [{"name": TEMPORARY_VOLUME, "emptyDir": {"sizeLimit": pods.temporary_storage}}]
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
        **_build_scheduling(shape.scheduling),
        "containers": [{**container, "imagePullPolicy": pods.image_pull_policy}],
        "volumes": volumes,
    }


def _build_scheduling(scheduling: Scheduling) -> Manifest:
    """Written also where they are empty: what the user takes away must go."""
    tolerations = [item.model_dump(by_alias=True, exclude_defaults=True) for item in scheduling.tolerations]
    return {
        "nodeSelector": scheduling.node_selector,
        "tolerations": tolerations,
        "priorityClassName": scheduling.priority_class_name,
    }


def _confine(container: Manifest, shape: PodShape, store: str) -> Manifest:
    mounts: list[Manifest] = [{"name": TEMPORARY_VOLUME, "mountPath": TEMPORARY_FOLDER}]
    if shape.store != "none":
        read_only = {"readOnly": True} if shape.store == "read" else {}
        mounts.append({"name": STORE_VOLUME, "mountPath": store} | read_only)
    return {
        **container,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
