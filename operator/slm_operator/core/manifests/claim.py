"""The PersistentVolumeClaim of a namespace's store."""

from slm_operator.core.placement import ClusterPods
from slm_operator.core.plan import Manifest


def build_claim(namespace: str, pods: ClusterPods) -> Manifest:
    """A claim that belongs to nobody, so that no deletion of ours takes the store with it."""
    spec: Manifest = {
        "accessModes": [pods.access_mode],
        "resources": {"requests": {"storage": pods.storage}},
    }
    if pods.storage_class:
        spec["storageClassName"] = pods.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": pods.claim,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "slm-operator"},
        },
        "spec": spec,
    }
