"""Where children run: the few facts in which the cluster and the local backend differ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Commands and folders as a child sees them."""

    store: str
    """Folder of the store."""
    pipeline_command: tuple[str, ...]
    """argv that runs the pipelines, without the step."""
    engine_command: tuple[str, ...]
    """argv that runs llama-server, without options."""
    machine_cpus: int
    """CPUs a child may use when it has no limit."""
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
    engine_image: str = "llama.cpp"
    """Image of the engine; plain processes ignore it."""
