"""Settings of ``slm`` and of the operator on a cluster, from environment variables that start with ``SLM_``.

Each field's docstring gives effect, unit and default; ``docs/reference/settings.md`` is made from them.
"""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slm_contract.base import Message
from slm_operator.core.placement import CPU, LLAMA_CPP, VLLM


def xdg_folder(variable: str, fallback: str) -> Path:
    """Our folder below an XDG base directory; a relative value is ignored, as the XDG specification demands."""
    chosen = os.environ.get(variable, "")
    base = Path(chosen) if chosen.startswith("/") else Path.home() / fallback
    return base / "slm-operator"


DEVICES = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "cpu": CPU}
"""Devices that an engine is built for, as settings name them, to the vendor's name."""
MAX_NAMESPACE_LENGTH = 63
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""A DNS-1123 label, as Kubernetes demands of namespaces; here it also becomes part of a folder's name."""


def check_namespace(name: str) -> str | None:
    """Why the name cannot be a namespace's, or None."""
    if len(name) <= MAX_NAMESPACE_LENGTH and NAMESPACE.fullmatch(name):
        return None
    shown = name if len(name) <= MAX_NAMESPACE_LENGTH else f"{name[:MAX_NAMESPACE_LENGTH]}…"
    return (
        f"{shown!r} is no name of a namespace: use at most {MAX_NAMESPACE_LENGTH} lower-case letters, digits and -, "
        "with a letter or digit at both ends"
    )


def _split_commas(value: object) -> object:
    return _parts(value) if isinstance(value, str) else value


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_engine(text: str) -> tuple[tuple[str, str], str]:
    """``vllm/nvidia=image`` as runtime, vendor and image; raises ValueError with what may stand there."""
    key, _, image = text.partition("=")
    runtime, _, device = key.partition("/")
    if runtime not in (LLAMA_CPP, VLLM) or device not in DEVICES or not image:
        choices = f"{LLAMA_CPP} or {VLLM}, then / and one of {', '.join(DEVICES)}, then = and an image"
        raise ValueError(f"{text!r} names no engine: write {choices}")
    return (runtime, DEVICES[device]), image


class Settings(BaseSettings):
    """Everything that can be set from outside; read once at start."""

    model_config = SettingsConfigDict(env_prefix="SLM_", env_ignore_empty=True, extra="ignore", frozen=True)

    state_home: Path = Field(default_factory=lambda: xdg_folder("XDG_STATE_HOME", ".local/state"))
    """Folder of the object database, the daemon's lock and all logs. Default: $XDG_STATE_HOME/slm-operator."""
    data_home: Path = Field(default_factory=lambda: xdg_folder("XDG_DATA_HOME", ".local/share"))
    """Folder of the store, where models and variants are kept. Default: $XDG_DATA_HOME/slm-operator."""
    cache_home: Path = Field(default_factory=lambda: xdg_folder("XDG_CACHE_HOME", ".cache"))
    """Folder of what can be fetched again: the llama.cpp installation. Default: $XDG_CACHE_HOME/slm-operator."""
    hub_endpoint: str = Field(default="", validation_alias=AliasChoices("SLM_HUB_ENDPOINT", "HF_ENDPOINT"))
    """Base address of the hub where a source names none (also read from HF_ENDPOINT). Default: the public hub."""
    allow_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated host or host:port inside private or loopback networks that may be contacted. Default: none."""
    llama_cpp: Path | None = None
    """Folder that holds the llama.cpp programs. Default: found on PATH or in the cache folder, else installed."""
    vllm: Path | None = None
    """The program vllm, which serves where spec.runtime asks for it. Default: found on PATH, else there is none."""
    autostart: bool = True
    """Whether `slm run`, `slm pull` and `slm wait` start the daemon when it is not running. Default: true."""
    namespace: str = Field(default="default", min_length=1)
    """Namespace that commands use when -n is not given. Default: default."""
    start_seconds: float = Field(default=60.0, gt=0)
    """Longest time the daemon may take to start, seconds. Default: 60."""
    stop_seconds: float = Field(default=90.0, gt=0)
    """Longest time the daemon and its engines may take to stop, seconds: answers under way may take 30, and an engine
    that is told to end 30 more. Default: 90."""
    gateway: bool = True
    """Whether the daemon keeps a gateway running, the one address for all services. Default: true."""
    gateway_port: int = Field(default=11435, ge=0, le=65535)
    """Port of the gateway on 127.0.0.1; 0 takes a free one. Default: 11435, next to Ollama's."""
    gateway_audit: Path | None = None
    """File to which the gateway adds a line per request, without prompts. Default: none."""

    @field_validator("allow_private_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_commas(value)

    @field_validator("namespace")
    @classmethod
    def _label(cls, value: str) -> str:
        if problem := check_namespace(value):
            raise ValueError(problem)
        return value

    @field_validator("state_home", "data_home", "cache_home", "llama_cpp", "vllm", "gateway_audit")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else value


class RuntimeTemplate(Message):
    """A further engine: any image that speaks OpenAI's API."""

    format: Literal["gguf", "safetensors"]
    """What it loads: one GGUF file, or a folder of safetensors."""
    images: dict[Literal["nvidia", "amd", "intel", "cpu"], str] = Field(min_length=1)
    """Image by the devices it is built for."""
    command: list[str] = Field(min_length=1)
    """argv, in which $(MODEL), $(NAME), $(HOST), $(PORT), $(CONTEXT), $(SLOTS), $(TOKENS), $(GPUS) and $(THREADS) are
    filled in."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables. Default: none but HOME and USER."""
    health_path: str = Field(default="/health", pattern=r"^/")
    """Answers with 200 once requests are served. Default: /health."""
    start_seconds: int = Field(default=1800, ge=1)
    """Longest start, seconds. Default: 1800."""


class OperatorSettings(BaseSettings):
    """What the operator on a cluster can be told from outside; the Helm chart sets all of it."""

    model_config = SettingsConfigDict(env_prefix="SLM_", env_ignore_empty=True, extra="ignore", frozen=True)

    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated namespaces whose objects are looked at. Default: all."""
    watch_nodes: bool = True
    """Whether Nodes are watched, and the ResourceSlices and DeviceClasses of DRA drivers, so that GPUs are chosen and a
    service that fits on none says by how much; only where all namespaces are looked at. Default: true."""
    operator_namespace: str = "default"
    """Namespace of the operator itself, where its Lease lives. Default: default."""
    pod_name: str = Field(default_factory=socket.gethostname)
    """Who this replica is, as its Lease names it. Default: the host's name."""
    lease_name: str = "slm-operator"
    """Name of the Lease that the acting replica holds. Default: slm-operator."""
    lease_seconds: float = Field(default=10.0, ge=3)
    """How long after its last sign of life a replica is given up and another acts, seconds. Default: 10."""
    listen_port: int = Field(default=8080, ge=0, le=65535)
    """Port of /healthz, /readyz and /metrics; 0 takes a free one. Default: 8080."""
    pipelines_image: str = "slm-pipelines"
    """Image of the pipeline steps. Default: slm-pipelines."""
    engine_image: str = "llama-cpp"
    """Image of llama.cpp for CPUs. Default: llama-cpp."""
    engine_images: Annotated[dict[tuple[str, str], str], NoDecode] = Field(default_factory=dict)
    """Comma-separated runtime/devices=image of further engines: llama.cpp or vllm for nvidia, amd, intel or cpu, as in
    vllm/nvidia=vllm/vllm-openai:v1. GPUs are used where there is an image for them. Default: none."""
    runtimes: dict[str, RuntimeTemplate] = Field(default_factory=dict)
    """JSON of further engines: name to format (gguf or safetensors), images by device, command, variables, healthPath
    and startSeconds; docs/engines.md tells more. Default: none."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of both images. Default: IfNotPresent."""
    image_pull_secrets: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated names of pull secrets, which must exist in the namespaces of the objects. Default: none."""
    store_claim: str = "slm-store"
    """Name of the PersistentVolumeClaim that is each namespace's store. Default: slm-store."""
    store_size: str = "100Gi"
    """Size of a store that the operator makes. Default: 100Gi."""
    store_class: str = ""
    """StorageClass of a store that the operator makes. Default: the cluster's own default."""
    store_access_mode: Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"] = "ReadWriteOnce"
    """Access mode of a store that the operator makes. ReadWriteMany lets engines run on any node. Default:
    ReadWriteOnce."""
    hub_endpoint: str = Field(default="", validation_alias=AliasChoices("SLM_HUB_ENDPOINT", "HF_ENDPOINT"))
    """Base address of the hub where a source names none. Default: the public hub."""
    allow_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated host or host:port inside private networks that may be contacted. Default: none."""
    gateway_account: str = Field(default="", pattern=r"^([^/]+/[^/]+)?$")
    """Service account of the gateways, as namespace/name, whose reports of demand are heard. Default: none is."""
    engine_callers: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Comma-separated namespaces whose pods may reach engines; `gateway` stands for the gateways' pods alone, * for
    everybody. Default: *."""
    log_format: Literal["json", "text"] = "text"
    """Form of the log lines. Default: text."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe lines that are logged. Default: info."""

    @field_validator("runtimes")
    @classmethod
    def _names(cls, value: dict[str, RuntimeTemplate]) -> dict[str, RuntimeTemplate]:
        if taken := {"auto", LLAMA_CPP, VLLM} & set(value):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set up anew: choose another name")
        return value

    @field_validator("engine_images", mode="before")
    @classmethod
    def _engines(cls, value: object) -> object:
        return dict(map(_read_engine, _parts(value))) if isinstance(value, str) else value

    @field_validator("watch_namespaces", "image_pull_secrets", "allow_private_hosts", "engine_callers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_commas(value)


class GatewaySettings(BaseSettings):
    """What the gateway on a cluster can be told from outside; the Helm chart sets all of it."""

    model_config = SettingsConfigDict(env_prefix="SLM_", env_ignore_empty=True, extra="ignore", frozen=True)

    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated namespaces whose services are reached. Default: all."""
    gateway_namespace: str = "default"
    """Namespace of the gateway itself: its API keys are Secrets there. Default: default."""
    gateway_port: int = Field(default=8080, ge=0, le=65535)
    """Port for clients; 0 takes a free one. Default: 8080."""
    gateway_metrics_port: int = Field(default=9090, ge=0, le=65535)
    """Port of /metrics. Default: 9090."""
    gateway_tls_cert: Path | None = None
    """File with the certificate chain for clients, PEM. Default: none, which is plain HTTP."""
    gateway_tls_key: Path | None = None
    """File with its private key, PEM."""
    gateway_audience: str = "slm.dev"
    """Audience that service-account tokens must have been made for. Default: slm.dev."""
    gateway_drain_seconds: float = Field(default=60.0, ge=0)
    """How long answers under way may go on after the gateway was told to end, seconds. Default: 60."""
    gateway_token_review: bool = True
    """Whether tokens of service accounts are good, which needs the right to ask for reviews. Default: true."""
    demand_url: str = ""
    """Address of the operator's /demand, where demand is reported to every address that its host name has. Default:
    none, which reports nothing."""
    demand_token: Path = Field(default_factory=lambda: Path("/var/run/secrets/slm.dev/demand/token"))
    """File with the token for it. Default: /var/run/secrets/slm.dev/demand/token."""
    pod_name: str = Field(default_factory=socket.gethostname)
    """Who this gateway is, as it reports demand. Default: the host's name."""
    gateway_audit: Literal["none", "stdout"] = "stdout"
    """Where a line per request goes; it never holds a prompt. Default: stdout."""
    log_format: Literal["json", "text"] = "text"
    """Form of the log lines, which go to standard error. Default: text."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe lines that are logged. Default: info."""

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_commas(value)

    @model_validator(mode="after")
    def _both(self) -> "GatewaySettings":
        if (self.gateway_tls_cert is None) != (self.gateway_tls_key is None):
            raise ValueError("set both SLM_GATEWAY_TLS_CERT and SLM_GATEWAY_TLS_KEY, or neither")
        return self
