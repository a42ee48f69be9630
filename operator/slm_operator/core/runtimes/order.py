"""What every engine is asked, whichever it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slm_operator.core.manifests.pod import TEMPORARY_FOLDER
from slm_operator.core.plan import Manifest

PORT_VARIABLE, CPUS_VARIABLE = "PORT", "CPUS"
"""Variables of the container that stand in its command line: the local backend knows a replica's port only when it
starts it, and Kubernetes the CPUs of a pod without a limit only when it has a node."""
CONTAINED = {"HOME": TEMPORARY_FOLDER, "USER": "nonroot"}
"""For engines that keep caches at home, and name them by the user, who has neither in a container."""


def name_adapter(alias: str, adapter: str) -> str:
    """Name by which an engine whose requests name adapters answers with one of them."""
    return f"{alias}:{adapter}"


@dataclass(frozen=True)
class Order:
    """One engine as it is ordered."""

    model: str
    """Path of the file or folder that it serves."""
    alias: str
    """Name by which it answers."""
    context_size: int
    """Tokens of one slot."""
    parallel: int
    """Slots: requests at the same time."""
    threads: int
    """Threads that compute; 0 leaves it to ``CPUS``."""
    host: str
    """Address to listen on."""
    devices: int = 0
    """GPUs it computes on; 0 for CPUs."""
    shared_by: int = 1
    """Pods that share each of them."""
    kv_bytes: int = 0
    """Size of the KV cache of all slots, bytes; 0 where it is not known."""
    draft: str = ""
    """Path of a draft model's file or folder; empty for none."""
    max_draft_tokens: int = 0
    """Most tokens that it proposes at a time."""
    projector: str = ""
    """Path of a multimodal projector's file; empty for none."""
    task: str = "generate"
    """generate, embed or rerank."""
    sleep_after_seconds: int = 0
    """After this time without a request it drops its weights, where it can; 0 is never."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Name to path of each LoRA adapter, in the order in which the engine numbers them."""
    adapter_rank: int = 0
    """Highest rank among them; 0 where there is none."""
    adapters_bytes: int = 0
    """Size of all of them, bytes."""
    contained: bool = False
    """Whether it runs in a container, in which only ``/tmp`` can be written."""

    @property
    def workers(self) -> str:
        """``threads`` as a word of the command line, or of a variable."""
        return str(self.threads) if self.threads else f"$({CPUS_VARIABLE})"


@dataclass(frozen=True)
class Overhead:
    """What a pod takes beside weights and KV cache; what is empty or 0 is as for every other container."""

    process_bytes: int
    """Memory of the process itself: interpreter, tables, threads' stacks, bytes."""
    cpu_limit: str = ""
    """CPUs without which it cannot keep its GPUs busy, a quantity."""
    temporary_storage: str = ""
    """Most that it writes to ``/tmp``, a quantity."""
    shared_memory: str = ""
    """Size of ``/dev/shm``, a quantity."""


def build_probes(start_seconds: int, path: str = "/health") -> Manifest:
    """Probes for an engine that starts within that time."""
    check = {"httpGet": {"path": path, "port": "http"}}
    return {
        "startupProbe": {**check, "periodSeconds": 1, "failureThreshold": start_seconds},
        "readinessProbe": {**check, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**check, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }
