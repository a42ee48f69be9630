"""vLLM: safetensors in a folder, on GPUs and, where that is asked for, on CPUs.

It never runs a model's own code (``--trust-remote-code`` is refused among a service's arguments), never asks a hub, and
is never in its development mode, whose routes change the engine without asking who calls. Those that let it sleep are
among them, and so it does not.
"""

import json

from slm_contract.adapters import PROJECTIONS
from slm_operator.core.fit_demand import VLLM_UTILIZATION, vllm_lora_rank
from slm_operator.core.placement import Program
from slm_operator.core.plan import Manifest
from slm_operator.core.runtimes import order as orders
from slm_operator.core.runtimes.order import CONTAINED, PORT_VARIABLE, Order, Overhead, name_adapter

GIB = 2**30
TASKS = {
    "generate": (),
    "embed": ("--runner", "pooling", "--convert", "embed"),
    "rerank": ("--runner", "pooling", "--convert", "classify"),
}
START_SECONDS = 1800
"""Longest start: reading the weights, compiling kernels for them, and capturing CUDA graphs."""
PROCESS_BYTES, DEVICE_BYTES = 3 * GIB, 2 * GIB
"""Memory of the node that its processes hold: API server and engine, and one worker for each GPU. Version 0.32.0 holds
1.9 GiB on CPUs beside weights and KV cache; CUDA's libraries come on top."""
DRAIN_SECONDS = 20
"""Without it SIGTERM cuts answers, or freezes them; it must end well before the grace that the pod has."""
COMPILED = "8Gi"
"""What it compiles for a model and a GPU, it writes to ``/tmp``."""
SHARED_GIB = 2
"""Shared memory for each GPU: workers hand each other tensors through it (vLLM's guide to Kubernetes). With the 64 MiB
that a container has by itself it does not start."""
OFFLINE = {
    # The weights are on this disk, and the network policy lets nothing out.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
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
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        *([] if order.devices else ["--kv-cache-memory-bytes", str(_cache_bytes(order))]),
        *(["--gpu-memory-utilization", _share(order)] if order.shared_by > 1 else []),
        *_build_draft(order),
        *_build_adapters(order),
        *TASKS[order.task],
    ]


def _build_draft(order: Order) -> list[str]:
    """On as many devices as the served model, which vLLM asks for.

    With drafts it refuses ``min_p``, which a model's ``generation_config.json`` may set for all requests.
    """
    if not order.draft:
        return []
    config = {
        "method": "draft_model",
        "model": order.draft,
        "num_speculative_tokens": order.max_draft_tokens,
        "draft_tensor_parallel_size": max(1, order.devices),
    }
    return ["--speculative-config", json.dumps(config), "--override-generation-config", json.dumps({"min_p": 0.0})]


def _build_adapters(order: Order) -> list[str]:
    """Each is a model of its own in requests. All of them stay in memory, and those of one batch on the device.

    The device has buffers for what an adapter may change, and not for the vocabulary, which are the largest. Another
    option ends the list of modules: whatever the user's own arguments begin with would be a module, too.
    """
    if not order.adapters:
        return []
    modules = [{"name": name_adapter(order.alias, name), "path": path} for name, path in order.adapters.items()]
    return [
        *("--lora-modules", *map(json.dumps, modules)),
        "--enable-lora",
        *("--lora-target-modules", *PROJECTIONS),
        *("--max-loras", str(min(len(order.adapters), order.parallel))),
        *("--max-cpu-loras", str(len(order.adapters))),
        *("--max-lora-rank", str(vllm_lora_rank(order.adapter_rank))),
    ]


def _share(order: Order) -> str:
    """Of a GPU that others use too, of which it would take nearly all otherwise."""
    return f"{VLLM_UTILIZATION * 1000 // order.shared_by / 1000:.3f}"


def _cache_bytes(order: Order) -> int:
    """On CPUs, of which it would take nearly all memory otherwise: the forecast, and room for begun blocks."""
    return order.kv_bytes * 9 // 8 if order.kv_bytes else GIB


def build_variables(order: Order) -> dict[str, str]:
    """Nothing leaves the pod, nothing is written outside ``/tmp``, and of CPUs it takes what it was given."""
    if not order.contained:
        return OFFLINE
    # It counts the cores that it may run on, which a container's limit does not change.
    cpus = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": order.workers}
    return {**OFFLINE, **CONTAINED, **({} if order.devices else cpus)}


def build_probes() -> Manifest:
    """Probes: nothing listens while the weights load, and /health answers 200 as long as the engine lives."""
    return orders.build_probes(START_SECONDS)


def overhead(order: Order) -> Overhead:
    """It is a large program, and one process more for each GPU; each of them keeps all adapters beside the buffers."""
    return Overhead(
        process_bytes=PROCESS_BYTES + order.devices * DEVICE_BYTES + max(1, order.devices) * order.adapters_bytes,
        cpu_limit=str(2 + order.devices) if order.devices else "",
        temporary_storage=COMPILED,
        shared_memory=f"{SHARED_GIB * max(1, order.devices)}Gi",
    )
