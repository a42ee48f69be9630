"""The Deployment of engines and the Service in front of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.meta import GROUP
from slm_operator.core.manifests.metadata import LABEL_STEP, build_labels, build_metadata
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest
from slm_operator.core.runtimes.llama_cpp import build_probes

ENGINE_PORT = 8080
ENGINE_LABEL = {LABEL_STEP: "serve"}
GRACE_SECONDS = 30
"""Time a stopping engine has to finish what it is answering."""


def build_selector(service: InferenceService) -> dict[str, str]:
    """Labels that engines of this service, and only they, carry."""
    return {**build_labels(service), **ENGINE_LABEL}


@dataclass(frozen=True)
class Weights:
    """What an engine serves; empty while that is unknown."""

    variant: str = ""
    """Type, or ``baseline``."""
    blob: str = ""
    """Digest of the GGUF file."""


ANNOTATION_VARIANT, ANNOTATION_BLOB = f"{GROUP}/variant", f"{GROUP}/digest"
"""An engine's pod says what it serves, so that a rollout can be told from its end."""


def served_weights(pods: Iterable[Manifest]) -> Weights | None:
    """What the engines that answer serve; None when none does, or when they differ."""
    ready = [pod["metadata"].get("annotations", {}) for pod in pods if _is_ready(pod)]
    found = {Weights(each.get(ANNOTATION_VARIANT, ""), each.get(ANNOTATION_BLOB, "")) for each in ready}
    return found.pop() if len(found) == 1 else None


def _is_ready(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def build_deployment(
    service: InferenceService, command: list[str], placement: Placement, memory_bytes: int, weights: Weights
) -> Manifest:
    """Engines that serve one blob; any difference in argv rolls them one after the other."""
    resources = service.spec.resources.model_dump(exclude_defaults=True)
    if memory_bytes and "memory" not in service.spec.resources.requests:
        resources.setdefault("requests", {})["memory"] = str(memory_bytes)
    container = {
        "name": "engine",
        "image": placement.engine_image,
        "command": command,
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "resources": resources,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **build_probes(),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": build_metadata(service, service.metadata.name, ENGINE_LABEL),
        "spec": {
            "replicas": service.spec.replicas,
            "selector": {"matchLabels": build_selector(service)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": build_selector(service),
                    "annotations": {ANNOTATION_VARIANT: weights.variant, ANNOTATION_BLOB: weights.blob},
                },
                "spec": {"terminationGracePeriodSeconds": GRACE_SECONDS, "containers": [container]},
            },
        },
    }


def build_service(service: InferenceService) -> Manifest:
    """The stable address; ``spec.port`` asks the local backend for that very port."""
    port: Manifest = {"name": "http", "port": 80, "targetPort": "http"}
    if service.spec.port:
        port["nodePort"] = service.spec.port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(service, service.metadata.name, ENGINE_LABEL),
        "spec": {"selector": build_selector(service), "ports": [port]},
    }
