"""ResourceClaimTemplates: the devices that each pod of a service claims (resource.k8s.io/v1).

What a template says never changes, so that a change is another template with another name, and pods from before keep
theirs.
"""

import json
from collections.abc import Iterable

from slm_operator.api.inferenceservice import AcceleratorStatus, InferenceService
from slm_operator.core.accelerator_slices import DRIVER_OF, PROFILES
from slm_operator.core.manifests.metadata import build_labels, build_metadata, short_digest
from slm_operator.core.plan import Manifest
from slm_operator.core.resources import MIB

REQUEST = "gpus"
"""Name of the request, and of the claim in the pod."""
ALIKE = {"NVIDIA": "gpu.nvidia.com/productName", "AMD": "gpu.amd.com/productName"}
"""Vendor to the attribute in which devices that work on one model together are equal: the slowest sets the pace, and a
node may have several models of GPUs. A device without the attribute could never be claimed, so Intel has none."""


def build_claim_template(service: InferenceService, accelerator: AcceleratorStatus) -> Manifest:
    """The template for what one engine computes on: so many devices of the class, each with the memory."""
    devices: Manifest = {
        "deviceClassName": accelerator.device_class,
        "allocationMode": "ExactCount",
        "count": accelerator.count,
    }
    if expressions := list(_build_expressions(accelerator)):
        devices["selectors"] = [{"cel": {"expression": each}} for each in expressions]
    asked: Manifest = {"requests": [{"name": REQUEST, "exactly": devices}]}
    if accelerator.count > 1 and (alike := ALIKE.get(accelerator.vendor)):
        asked["constraints"] = [{"requests": [REQUEST], "matchAttribute": alike}]
    spec = {"metadata": {"labels": build_labels(service)}, "spec": {"devices": asked}}  # Claims get the labels.
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": build_metadata(service, f"{service.metadata.name}-{short_digest(spec)}"),
        "spec": spec,
    }


def _build_expressions(accelerator: AcceleratorStatus) -> Iterable[str]:
    """CEL over one device. A name that a device lacks would be an error, which the pod waits for ever after."""
    driver = DRIVER_OF[accelerator.vendor]
    if accelerator.memory_bytes:
        capacity = f'device.capacity["{driver}"]'
        least = f'{capacity}.memory.compareTo(quantity("{-(-accelerator.memory_bytes // MIB)}Mi")) >= 0'
        yield f'"memory" in {capacity} && {least}'
    if accelerator.partition:
        attributes, name = f'device.attributes["{driver}"]', PROFILES[driver]
        # Escapes are those of JSON: what a driver published is text here and no expression.
        yield f'"{name}" in {attributes} && {attributes}.{name} == {json.dumps(accelerator.partition)}'


def read_claim_template(deployment: Manifest) -> str:
    """Name of the template by which a Deployment's pods claim devices; empty where they claim none."""
    claims = deployment["spec"]["template"]["spec"].get("resourceClaims") or []
    return next((str(each["resourceClaimTemplateName"]) for each in claims if each["name"] == REQUEST), "")
