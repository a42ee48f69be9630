"""llama-server: GGUF files, on CPUs and GPUs.

Everything is given as arguments, never as environment: llama.cpp ignores unknown environment names silently.
"""

from slm_operator.core.placement import Program
from slm_operator.core.plan import Manifest
from slm_operator.core.resources import PROCESS_BYTES
from slm_operator.core.runtimes import order as orders
from slm_operator.core.runtimes.order import PORT_VARIABLE, Order, Overhead

START_SECONDS = 600
"""Longest start: reading 30 GB from a slow disk at 50 MB/s."""


def build_command(program: Program, order: Order) -> list[str]:
    """Argv of an engine. ``--ctx-size`` is the sum over all slots: llama-server divides it by ``--parallel``."""
    # Without a number llama-server puts as many layers on GPUs as fit, and the rest, much slower, on CPUs.
    layers = ["--n-gpu-layers", "all"] if order.devices else []
    return [
        *program.command,
        *("--model", order.model),
        *("--alias", order.alias),
        *("--host", order.host),
        *("--port", f"$({PORT_VARIABLE})"),
        *("--ctx-size", str(order.context_size * order.parallel)),
        *("--parallel", str(order.parallel)),
        *("--threads", order.workers),
        *("--threads-batch", order.workers),
        *layers,
        *_build_draft(order),
        *(("--mmproj", order.projector) if order.projector else ()),
        *_build_adapters(order),
        *_build_task(order),
        *(("--sleep-idle-seconds", str(order.sleep_after_seconds)) if order.sleep_after_seconds else ()),
        "--metrics",
        "--no-webui",
    ]


def _build_draft(order: Order) -> list[str]:
    """Without a type a draft model is loaded and not used; what is said of layers is said of the served model's."""
    if not order.draft:
        return []
    return [
        *("--spec-type", "draft-simple"),
        *("--spec-draft-model", order.draft),
        *("--spec-draft-n-max", str(order.max_draft_tokens)),
        *(("--spec-draft-ngl", "all") if order.devices else ()),
    ]


def _build_adapters(order: Order) -> list[str]:
    """None is applied until a request asks for it, which ``--lora-init-without-apply`` does not see to.

    Prompts that are remembered outside of slots do not say with which adapter they were computed, so none is.
    """
    if not order.adapters:
        return []
    return ["--lora-scaled", ",".join(f"{path}:0" for path in order.adapters.values()), "--cache-ram", "0"]


def _build_task(order: Order) -> list[str]:
    """A vector is computed of a whole text at once, so that the batch must hold the longest."""
    if order.task == "generate":
        return []
    kind = {"embed": "--embeddings", "rerank": "--reranking"}[order.task]
    return [kind, *("--batch-size", str(order.context_size)), *("--ubatch-size", str(order.context_size))]


def build_variables(order: Order) -> dict[str, str]:
    """On GPUs the search path of images that keep their programs in ``/app``, as llama.cpp's own do."""
    path = "/app:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path} if order.devices else {}


def build_probes() -> Manifest:
    """Probes: /health answers 503 while the weights load and 200 once requests are served."""
    return orders.build_probes(START_SECONDS)


def overhead(order: Order) -> Overhead:  # noqa: ARG001 - each engine is asked in the same way
    """It needs little beside the model."""
    return Overhead(PROCESS_BYTES)
