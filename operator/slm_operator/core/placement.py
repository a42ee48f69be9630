"""Where children run: the few facts in which the cluster and the local backend differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field

LLAMA_CPP, VLLM = "llama.cpp", "vllm"
CPU = ""
"""Stands for a vendor where an engine computes on CPUs."""


@dataclass(frozen=True)
class Program:
    """One engine, built for one sort of device."""

    command: tuple[str, ...]
    """argv without options."""
    image: str = ""
    """Image; plain processes have none."""


@dataclass(frozen=True)
class EngineTemplate:
    """How a further engine is started, whatever image speaks OpenAI's API."""

    like: str
    """llama.cpp for one that loads a GGUF file, vllm for one that loads a folder of safetensors: it is taken to need as
    much memory, and to split a model over GPUs in the same way."""
    variables: Mapping[str, str]
    """Environment variables."""
    health_path: str
    """Answers with 200 once requests are served."""
    start_seconds: int
    """Longest start."""


@dataclass(frozen=True)
class ClusterPods:
    """What only pods of a real cluster need; the local backend runs processes and has none of it."""

    claim: str = "slm-store"
    """Name of the PersistentVolumeClaim that holds a namespace's store. Made if absent. Default: slm-store."""
    storage: str = "100Gi"
    """Size of a claim that the operator makes, a quantity. One that exists is never changed. Default: 100Gi."""
    storage_class: str = ""
    """StorageClass of a claim that the operator makes. Default: the cluster's default class."""
    access_mode: str = "ReadWriteOnce"
    """Access mode of a claim that the operator makes. With ReadWriteOnce all pods follow the volume to its node.
    Default: ReadWriteOnce."""
    image_pull_policy: str = "IfNotPresent"
    """When nodes pull the images: Always, IfNotPresent or Never. Default: IfNotPresent."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the user's namespace that pull the images. Default: none."""
    user: int = 65532
    """User, group and fsGroup of every pod: what is in the store belongs to this group. Default: 65532, ``nonroot``."""
    gateway_namespace: str = ""
    """Where the gateways' pods are; empty where there are none. Default: empty."""
    engine_callers: tuple[str, ...] = ("*",)
    """Namespaces whose pods may reach engines; ``gateway`` is the gateways' pods alone, ``*`` everybody. Default: *."""
    cpu_limit: str = "2"
    """CPU limit of a container whose spec gives none, a quantity; threads are counted from it. Empty gives no limit,
    and then as many threads as the node has CPUs. Default: 2, which fits the smallest nodes."""
    cpu_request: str = "500m"
    """CPU request of a container whose spec gives none, a quantity: small, so that a rollout finds room for one engine
    more. Default: 500m."""
    temporary_storage: str = "1Gi"
    """Most that a container may write to its ``/tmp``, a quantity; whatever is large is written to the store.
    Default: 1Gi."""


@dataclass(frozen=True)
class Placement:
    """Commands and folders as a child sees them."""

    store: str
    """Folder of the store."""
    pipeline_command: tuple[str, ...]
    """argv that runs the pipelines, without the step."""
    engines: Mapping[tuple[str, str], Program]
    """Runtime and vendor of the devices (NVIDIA, AMD, Intel; empty for CPUs) to what serves there."""
    machine_cpus: int
    """CPUs a child may use when it has no limit; on a cluster nobody knows before the pod has a node, so 0."""
    listen_host: str = "127.0.0.1"
    """Address engines listen on."""
    hub_endpoint: str = ""
    """Hub used where a source names none; empty means the pipelines' own default."""
    allow_private_hosts: tuple[str, ...] = ()
    """Hosts inside private networks that may be contacted."""
    own_hub_token: bool = False
    """Whether steps that ask a hub get HF_TOKEN from the environment of whoever runs them (local backend)."""
    image: str = "slm-operator"
    """Image of the pipelines; plain processes ignore it."""
    templates: Mapping[str, EngineTemplate] = field(default_factory=dict)
    """Engines among ``engines`` beside llama.cpp and vllm, by name."""
    pods: ClusterPods | None = None
    """How pods are built on a cluster; None on the local backend."""
