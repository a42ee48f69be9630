"""The Job of one pipeline step."""

from slm_contract import exitcodes
from slm_contract.specs import AcquireSpec, AnySpec, ResolveSpec
from slm_operator.api.meta import ResourceRequirements
from slm_operator.api.registry import AnyResource
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.manifests.metadata import (
    ANNOTATION_RETRY,
    LABEL_STEP,
    MAX_CHILD_NAME,
    build_metadata,
    short_digest,
)
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest

SPEC_VARIABLE = "SLM_SPEC"
"""Environment variable that carries the step's JSON spec: one child per step, no ConfigMap beside it."""

ENDPOINT_VARIABLE = "HF_ENDPOINT"
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable
OWN_ENVIRONMENT = {"name": "environment", "key": TOKEN_VARIABLE, "optional": True}
"""What a local pod's token refers to: the environment of the daemon stands in for Secrets."""


def build_job_name(owner: AnyResource, step: AnySpec, label: str) -> str:
    """Name that changes with the step's spec, so that changed work is a new Job and equal work is found again.

    What only the operator's settings say (hub, allowed hosts) is left out: it must not undo finished work.
    """
    retry = owner.metadata.annotations.get(ANNOTATION_RETRY, "")
    asked = step.model_dump(mode="json", exclude={"allow_private_hosts"})
    # The whole name is in the digest: of two long names that begin alike, each has its own Jobs.
    digest = short_digest([owner.kind, owner.metadata.name, asked, retry])
    tail = f"-{label.lower().replace('_', '-')}-{digest}"
    return owner.metadata.name[: MAX_CHILD_NAME - len(tail)].rstrip("-.") + tail


def build_hub_variables(owner: AnyResource, step: AnySpec, placement: Placement) -> list[Manifest]:
    """Hub and token for the two steps that ask a hub; no other step ever sees the token."""
    if not isinstance(owner, SLMModel) or not isinstance(step, ResolveSpec | AcquireSpec):
        return []
    variables: list[Manifest] = []
    if placement.hub_endpoint:
        variables.append({"name": ENDPOINT_VARIABLE, "value": placement.hub_endpoint})
    hub = owner.spec.source.hugging_face
    if placement.own_hub_token:
        variables.append({"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": OWN_ENVIRONMENT}})
    elif hub is not None and hub.token_secret_ref is not None:
        chosen = hub.token_secret_ref.model_dump()
        variables.append({"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": chosen}})
    return variables


def build_job(
    owner: AnyResource,
    step: AnySpec,
    label: str,
    placement: Placement,
    resources: ResourceRequirements,
    backoff_limit: int,
) -> Manifest:
    """A Job that runs ``step`` once, again after faults, and never again after a bad input."""
    labels = {LABEL_STEP: label}
    metadata = build_metadata(owner, build_job_name(owner, step, label), labels)
    container = {
        "name": "step",
        "image": placement.image,
        "command": [*placement.pipeline_command, step.step, "--spec-env", SPEC_VARIABLE],
        "env": [
            {"name": SPEC_VARIABLE, "value": step.model_dump_json(by_alias=True, exclude_defaults=False)},
            *build_hub_variables(owner, step, placement),
        ],
        "resources": resources.model_dump(exclude_defaults=True),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": backoff_limit,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"operator": "In", "values": [exitcodes.USAGE, exitcodes.BAD_INPUT]},
                    }
                ]
            },
            "template": {
                "metadata": {"labels": metadata["labels"]},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }
