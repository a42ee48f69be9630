"""What all three resources share: metadata, conditions, references, compute resources."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from slm_contract.base import Message

GROUP = "slm.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "slm.dev/v1alpha1"
MAX_NAME_LENGTH = 52
"""Longest name of a resource: names of children add a step and a digest and must stay within 63."""


def _from_whole_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_from_whole_number),  # Last: what follows it is missing from the schema.
]
"""A Kubernetes quantity such as ``500m``, ``2Gi`` or the whole number 2."""


class ObjectMeta(BaseModel):
    """The part of Kubernetes metadata that the planners read; everything else passes through."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    namespace: str = Field(default="default", max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    uid: str = ""
    generation: int = 1
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Condition(Message):
    """One observation, as Kubernetes defines conditions."""

    type: str = Field(max_length=316)
    """What is observed: Ready, Succeeded, Reconciling or Stalled."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(max_length=1024)
    """CamelCase reason for machines; docs/reference/reasons.md lists all."""
    message: str = Field(default="", max_length=32768)
    """One sentence for people that says what to change when something is wrong."""
    last_transition_time: str = ""
    """When `status` last changed, RFC 3339 UTC."""
    observed_generation: int = 0
    """The `metadata.generation` this was observed for."""


class ModelRef(Message):
    """Names an SLMModel in the same namespace."""

    name: str = Field(min_length=1, max_length=253)
    """Name of the SLMModel. It may be created later."""


class ResourceRequirements(Message):
    """CPU and memory of one container."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the scheduler reserves: `cpu`, `memory`, `ephemeral-storage`. Default: memory from the forecast."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the container may use at most. Threads are the CPU limit rounded down, at least one. Default on a
    cluster: 2 CPUs, and the memory that is requested with some headroom."""


StepAnswer = Annotated[str, Field(max_length=4096)]
"""The outcome of a step as JSON; it fits a termination message, and so this."""
LabelText = Annotated[str, Field(max_length=317)]


class Toleration(Message):
    """A taint that a pod may be scheduled in spite of, as Kubernetes defines it."""

    key: str = Field(default="", max_length=317)
    """Key of the taint. Default: every key, with operator Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How value is compared. Default: Equal."""
    value: str = Field(default="", max_length=63)
    """Value of the taint. Default: empty."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint. Default: every effect."""


class Scheduling(Message):
    """Where pods may run (cluster)."""

    node_selector: dict[str, LabelText] = Field(default_factory=dict, max_length=32)
    """Labels that a node must have. Default: none. (cluster)"""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32)
    """Taints that pods may be scheduled in spite of. Default: none. (cluster)"""
    priority_class_name: str = Field(default="", max_length=253)
    """PriorityClass of the pods. Default: the cluster's default. (cluster)"""


class Resource(BaseModel):
    """An object of our group: apiVersion, kind, metadata, spec and status."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, defer_build=True
    )

    api_version: Literal["slm.dev/v1alpha1"] = API_VERSION
    metadata: ObjectMeta


class CelRule(Message):
    """A validation rule that the API server evaluates and the local backend mirrors in Python."""

    rule: str
    """The CEL expression."""
    message: str
    """What the user reads when it is false."""


class PrinterColumn(Message):
    """One column of ``kubectl get`` and ``slm get``."""

    name: str
    json_path: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    description: str = ""
    priority: int = 0
    """0 is always shown, 1 with ``-o wide``."""


class ResourceInfo(Message):
    """What a CRD needs besides schemas."""

    kind: str
    plural: str
    short_names: list[str]
    spec: Any
    """The pydantic class of the spec."""
    status: Any
    """The pydantic class of the status."""
    rules: list[CelRule]
    """CEL rules on the whole object's `spec`; `self` is the spec."""
    columns: list[PrinterColumn]
    scale: bool = False
    """Whether the resource has a /scale subresource over spec.replicas and status.replicas."""
