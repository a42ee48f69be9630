"""Kinds the operator touches: where the API server serves them, and which of their objects it watches."""

from dataclasses import dataclass, replace

from slm_operator.api.meta import GROUP, VERSION
from slm_operator.core.manifests.metadata import ENGINE_STEPS, LABEL_STEP
from slm_operator.ports import ObjectKey

PUBLISHED = ("Node", "ResourceSlice", "DeviceClass")
"""Kinds without a namespace, in which clusters tell what nodes offer; watched only where that is allowed."""
OURS = "app.kubernetes.io/managed-by=slm-operator"
"""Selects what this operator made; a cluster's other Pods never reach it."""


@dataclass(frozen=True)
class Kind:
    """One kind of object."""

    name: str
    group: str
    version: str
    plural: str
    label_selector: str = OURS
    """Which objects are watched; empty for all."""

    @property
    def api_version(self) -> str:
        """As manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path of a collection (no name), an object, or one of its subresources."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        parts += ["namespaces", namespace] if namespace else []
        return "/".join([*parts, self.plural, *(part for part in (name, subresource) if part)])


KINDS = {
    kind.name: kind
    for kind in (
        Kind("SLMModel", GROUP, VERSION, "slmmodels", ""),
        Kind("QuantJob", GROUP, VERSION, "quantjobs", ""),
        Kind("InferenceService", GROUP, VERSION, "inferenceservices", ""),
        Kind("Job", "batch", "v1", "jobs"),
        Kind("Pod", "", "v1", "pods"),
        Kind("Deployment", "apps", "v1", "deployments"),
        Kind("Service", "", "v1", "services"),
        Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
        Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
        # Not only ours: a platform team may bring the store's claim itself. Which one is a field selector.
        Kind("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims", ""),
        # An API server that serves none of these, as before Kubernetes 1.34, has none.
        Kind("ResourceClaimTemplate", "resource.k8s.io", "v1", "resourceclaimtemplates"),
        Kind("ResourceSlice", "resource.k8s.io", "v1", "resourceslices", ""),
        Kind("DeviceClass", "resource.k8s.io", "v1", "deviceclasses", ""),
        Kind("Node", "", "v1", "nodes", ""),
    )
}
"""All that the operator caches, by kind."""
GATEWAY_KINDS = (
    *(KINDS[name] for name in ("SLMModel", "QuantJob", "InferenceService")),
    replace(KINDS["Pod"], label_selector=f"{OURS},{LABEL_STEP} in ({','.join(ENGINE_STEPS)})"),
)
"""What the gateway caches: engines are the only pods it looks at."""


def path_of(key: ObjectKey, subresource: str = "") -> str:
    """Path of an object or of one of its subresources."""
    return KINDS[key.kind].path(key.namespace, key.name, subresource)
