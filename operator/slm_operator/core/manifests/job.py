"""The Job of one pipeline step."""

from dataclasses import dataclass, field

from slm_contract import exitcodes
from slm_contract.specs import AcquireSpec, AnySpec, ResolveSpec
from slm_operator.api.meta import ResourceRequirements, Scheduling
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.manifests.metadata import (
    ANNOTATION_RETRY,
    LABEL_STEP,
    MAX_CHILD_NAME,
    Owner,
    build_metadata,
    short_digest,
)
from slm_operator.core.manifests.pod import TEMPORARY_FOLDER, PodShape, build_pod_template
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest
from slm_operator.core.resources import SMALL, Memory, fill_resources

SPEC_VARIABLE = "SLM_SPEC"
"""Environment variable that carries the step's JSON spec: one child per step, no ConfigMap beside it."""

ENDPOINT_VARIABLE = "HF_ENDPOINT"
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable
RESULT_VARIABLE, RESULT_FILE = "SLM_TERMINATION_LOG", "/dev/termination-log"
"""Where a pod's outcome goes; the local backend names a file of its own."""
GRACE_SECONDS = 5
"""A step keeps nothing that a sudden end would spoil: what is half written is never taken for whole."""
OWN_ENVIRONMENT = {"name": "environment", "key": TOKEN_VARIABLE, "optional": True}
"""What a local pod's token refers to: the environment of the daemon stands in for Secrets."""


@dataclass(frozen=True)
class JobShape:
    """What the owner's spec and the forecast say about a step's pod."""

    resources: ResourceRequirements = field(default_factory=ResourceRequirements)
    memory: Memory = SMALL
    scheduling: Scheduling = field(default_factory=Scheduling)
    backoff_limit: int = 3


def build_job_name(owner: Owner, step: AnySpec, label: str) -> str:
    """Name that changes with the step's spec, so that changed work is a new Job and equal work is found again.

    What only the operator's settings say (hub, allowed hosts) is left out: it must not undo finished work.
    """
    retry = owner.metadata.annotations.get(ANNOTATION_RETRY, "")
    asked = step.model_dump(mode="json", exclude={"allow_private_hosts"})
    # The whole name is in the digest: of two long names that begin alike, each has its own Jobs.
    digest = short_digest([owner.kind, owner.metadata.name, asked, retry])
    tail = f"-{label.lower().replace('_', '-')}-{digest}"
    return owner.metadata.name[: MAX_CHILD_NAME - len(tail)].rstrip("-.") + tail


def build_hub_variables(owner: Owner, step: AnySpec, placement: Placement) -> list[Manifest]:
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


def build_job(owner: Owner, name: str, step: AnySpec, label: str, placement: Placement, shape: JobShape) -> Manifest:
    """A Job that runs ``step`` once, again after faults, and never again after a bad input.

    It has no ``ttlSecondsAfterFinished``: the step's result is in its Pod, so who reads it also says when it may go.
    """
    metadata = build_metadata(owner, name, {LABEL_STEP: label})
    container: Manifest = {
        "name": "step",
        "image": placement.image,
        "command": [*placement.pipeline_command, step.step, "--spec-env", SPEC_VARIABLE],
        "env": [
            {"name": SPEC_VARIABLE, "value": step.model_dump_json(by_alias=True, exclude_defaults=False)},
            *build_hub_variables(owner, step, placement),
        ],
        "resources": shape.resources.model_dump(exclude_defaults=True),
    }
    rules: list[Manifest] = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [exitcodes.USAGE, exitcodes.BAD_INPUT]}}
    ]
    spec: Manifest = {"backoffLimit": shape.backoff_limit, "podFailurePolicy": {"rules": rules}}
    if placement.pods is not None:
        container["env"] += [
            {"name": RESULT_VARIABLE, "value": RESULT_FILE},
            {"name": "HOME", "value": TEMPORARY_FOLDER},
        ]
        container["resources"] = fill_resources(shape.resources, shape.memory, placement.pods)
        container |= {"terminationMessagePath": RESULT_FILE, "terminationMessagePolicy": "File"}
        # A drained node is nobody's failure. Only FailJob needs to know the container, and there is one.
        rules.append({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})
        # Never two pods of one step: both would write.
        spec |= {"completions": 1, "parallelism": 1, "podReplacementPolicy": "Failed"}
    pod = PodShape(
        network="source" if isinstance(step, ResolveSpec | AcquireSpec) else "none",
        store="write" if getattr(step, "store", "") else "none",
        restart_policy="Never",
        grace_seconds=GRACE_SECONDS,
        scheduling=shape.scheduling,
    )
    spec["template"] = build_pod_template(pod, container, placement, metadata["labels"], {})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
