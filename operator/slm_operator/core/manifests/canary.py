"""The Deployment of engines that are tried, made from the one that they may take over."""

import copy

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.core.manifests.deployment import ANNOTATION_BLOB, ANNOTATION_VARIANT, Weights
from slm_operator.core.manifests.metadata import ANNOTATION_RETRY, CANARY, LABEL_STEP, short_digest
from slm_operator.core.plan import Manifest, ObjectKey

NAME_ENDING = "-canary"
"""A resource's name has 52 characters at most: with it, a Deployment's stays within 63."""


def canary_key(service: InferenceService) -> ObjectKey:
    """Identity of the canary's Deployment."""
    meta = service.metadata
    return ObjectKey("Deployment", meta.namespace, f"{meta.name}{NAME_ENDING}")


def name_template(service: InferenceService, deployment: Manifest) -> str:
    """Identity of what a Deployment runs: a retry that is asked for is another one."""
    return short_digest([deployment["spec"]["template"], service.metadata.annotations.get(ANNOTATION_RETRY, "")])


def read_weights(template: Manifest) -> Weights:
    """What engines of a template serve."""
    annotations = template["metadata"].get("annotations") or {}
    return Weights(annotations.get(ANNOTATION_VARIANT, ""), annotations.get(ANNOTATION_BLOB, ""))


def keep_template(wanted: Manifest, there: Manifest) -> Manifest:
    """The Deployment that is wanted, with the template that it has: only its number of engines may change."""
    template = there["spec"]["template"]
    # Some API servers answer null for a time that no template has.
    metadata = {name: value for name, value in template["metadata"].items() if value is not None}
    return {**wanted, "spec": {**wanted["spec"], "template": {**template, "metadata": metadata}}}


def build_canary(service: InferenceService, wanted: Manifest, replicas: int) -> Manifest:
    """Engines of the template that is wanted, which no selector of the service's other children means."""
    made = copy.deepcopy(wanted)
    made["metadata"]["name"] = canary_key(service).name
    spec = made["spec"]
    spec["replicas"] = replicas
    spreads = spec["template"]["spec"].get("topologySpreadConstraints", [])
    for labels in (
        made["metadata"]["labels"],
        spec["selector"]["matchLabels"],
        spec["template"]["metadata"]["labels"],
        *(each["labelSelector"]["matchLabels"] for each in spreads),
    ):
        labels[LABEL_STEP] = CANARY
    return made
