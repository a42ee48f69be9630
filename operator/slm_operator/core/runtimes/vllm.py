"""vLLM: safetensors in a folder, on GPUs and, where that is asked for, on CPUs.

It never runs a model's own code (``--trust-remote-code`` is refused among a service's arguments), never asks a hub, and
never has the routes of its development mode, which change the engine without asking who calls.
"""

from slm_operator.core.placement import Program
from slm_operator.core.plan import Manifest
from slm_operator.core.runtimes import order as orders
from slm_operator.core.runtimes.order import PORT_VARIABLE, Order, Overhead

GIB = 2**30
TASKS = {
    "generate": (),
    "embed": ("--runner", "pooling", "--convert", "embed"),
    "rerank": ("--runner", "pooling", "--convert", "classify"),
}
START_SECONDS = 1800
"""Longest start: reading the weights, compiling kernels for them, and capturing CUDA graphs."""
PROCESS_BYTES, DEVICE_BYTES = 3 * GIB, 2 * GIB
"""Memory of the node that its processes hold: API server and engine, and one worker for each GPU."""
COMPILED = "8Gi"
"""What it compiles for a model and a GPU, it writes to ``/tmp``."""
SHARED_GIB = 2
"""Shared memory for each GPU: workers hand each other tensors through it (vLLM's guide to Kubernetes)."""
OFFLINE = {
    # The weights are on this disk, and the network policy lets nothing out.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
}

CONTAINED = {
    # PyTorch names its cache by the user, who has no name there.
    "HOME": "/tmp",  # noqa: S108 - the pod's own
    "USER": "nonroot",
    "VLLM_CACHE_ROOT": "/tmp/vllm",  # noqa: S108
}


def build_command(program: Program, order: Order) -> list[str]:
    """Argv of an engine. ``--max-model-len`` is one request's context: the KV cache is shared by all of them."""
    return [
        *program.command,
        order.model,
        *("--served-model-name", order.alias),
        *("--host", order.host),
        *("--port", f"$({PORT_VARIABLE})"),
        *("--max-model-len", str(order.context_size)),
        *("--max-num-seqs", str(order.parallel)),
        *("--tensor-parallel-size", str(max(1, order.devices))),
        *TASKS[order.task],
    ]


def build_variables(order: Order) -> dict[str, str]:
    """Nothing leaves the pod, nothing is written outside ``/tmp``, and of CPUs it takes what it was given."""
    variables = {**OFFLINE, **(CONTAINED if order.contained else {})}
    if order.devices:
        return variables
    # Its own default is half of the machine's memory, and a thread on each of the machine's cores.
    cache = max(1, -(-order.kv_bytes // GIB))
    cpus = {"VLLM_CPU_KVCACHE_SPACE": str(cache), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {**variables, **cpus, "OMP_NUM_THREADS": order.workers}


def build_probes() -> Manifest:
    """Probes: nothing listens while the weights load, and /health answers 200 as long as the engine lives."""
    return orders.build_probes(START_SECONDS)


def overhead(order: Order) -> Overhead:
    """It is a large program, and one process more for each GPU."""
    return Overhead(
        process_bytes=PROCESS_BYTES + order.devices * DEVICE_BYTES,
        cpu_limit=str(2 + order.devices) if order.devices else "",
        temporary_storage=COMPILED,
        shared_memory=f"{SHARED_GIB * max(1, order.devices)}Gi",
    )
