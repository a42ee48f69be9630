"""``runtime: auto`` and ``tensorParallelSize: auto``: which engine, over how many GPUs, and why, as a sentence."""

from collections.abc import Collection
from dataclasses import dataclass

from slm_operator.core.fit_demand import Demand, device_bytes
from slm_operator.core.inventory import Accelerator
from slm_operator.core.placement import LLAMA_CPP, VLLM
from slm_operator.core.quantity import format_bytes
from slm_operator.core.tensor_parallel import tensor_parallel_sizes, why_not_split

LOW_CONCURRENCY = 4
"""Requests at the same time up to which llama.cpp serves as well as vLLM on a GPU: continuous batching and paged
attention pay with many, and llama.cpp starts faster and takes less memory."""
VLLM_FORMATS = frozenset({"awq", "gptq", "fp8"})
"""Quantized safetensors that only vLLM loads."""
VLLM_VENDORS = frozenset({"NVIDIA", "AMD", "Intel"})
"""Vendors whose GPUs vLLM supports: CUDA, ROCm and XPU."""


@dataclass(frozen=True)
class RuntimeChoice:
    """An engine, or why there is none."""

    runtime: str
    """llama.cpp or vllm; empty where nothing can serve the model here."""
    reason: str
    """Why, as a sentence; where there is no engine, with what to change."""


@dataclass(frozen=True)
class SplitChoice:
    """Over how many GPUs of one node a model is split, or why it cannot be."""

    size: int
    """``--tensor-parallel-size``; 0 where no size will do."""
    reason: str
    """Why, as a sentence; where there is no size, with what to change."""


def choose_runtime(
    asked: str,
    formats: Collection[str],
    concurrency: int,
    accelerator: Accelerator | None,
    configured: Collection[str] = (LLAMA_CPP, VLLM),
) -> RuntimeChoice:
    """The engine for a model that is there in ``formats`` (gguf, safetensors, awq, gptq, fp8).

    ``asked`` is spec.runtime; safetensors count as GGUF too, as they can be converted, and ``accelerator`` is None on
    CPUs. ``configured`` are the engines that have an image.
    """
    if asked != "auto":
        problem = _problem(asked, formats, accelerator, configured)
        return RuntimeChoice("" if problem else asked, problem or f"{asked}: spec.runtime asks for it.")
    wanted, reason = _prefer(formats, concurrency, accelerator)
    problem = _problem(wanted, formats, accelerator, configured)
    if not problem:
        return RuntimeChoice(wanted, f"{wanted}: {reason}.")
    other = LLAMA_CPP if wanted == VLLM else VLLM
    if _problem(other, formats, accelerator, configured):
        return RuntimeChoice("", problem)
    return RuntimeChoice(other, f"{other}: {wanted} is not configured, which would be chosen as {reason}.")


def _prefer(formats: Collection[str], concurrency: int, accelerator: Accelerator | None) -> tuple[str, str]:
    """What serves best where everything is configured, and why, as half a sentence."""
    rules = (
        (not {"gguf", "safetensors"} & set(formats), VLLM, f"it serves {_name(VLLM_FORMATS & set(formats))} weights"),
        (accelerator is None, LLAMA_CPP, "it serves on CPUs"),
        (not _is_served_by_vllm(accelerator), LLAMA_CPP, f"it serves on {_vendor(accelerator)} GPUs"),
        (set(formats) == {"gguf"}, LLAMA_CPP, "it serves GGUF files"),
        (
            "gguf" in formats and concurrency <= LOW_CONCURRENCY,
            LLAMA_CPP,
            f"it serves {_count(concurrency)} at the same time as fast and takes less memory",
        ),
        (concurrency > LOW_CONCURRENCY, VLLM, f"it serves {_count(concurrency)} at the same time faster on a GPU"),
        (True, VLLM, "it serves safetensors as they are on a GPU"),
    )
    return next((runtime, reason) for applies, runtime, reason in rules if applies)


def _is_served_by_vllm(accelerator: Accelerator | None) -> bool:
    return accelerator is not None and accelerator.vendor in VLLM_VENDORS


def _vendor(accelerator: Accelerator | None) -> str:
    return (accelerator.vendor if accelerator else "") or "unknown"


def _name(formats: Collection[str]) -> str:
    return ", ".join(sorted(formats)).upper() or "unknown"


def _count(concurrency: int) -> str:
    return "1 request" if concurrency == 1 else f"{concurrency} requests"


def _problem(
    runtime: str, formats: Collection[str], accelerator: Accelerator | None, configured: Collection[str]
) -> str:
    """Why an engine cannot serve the model here, as a sentence, or nothing."""
    if runtime not in configured:
        return f"{runtime} is not configured: give it an image, or choose one of {', '.join(sorted(configured))}."
    if runtime == VLLM:
        return _vllm_problem(formats, accelerator)
    if runtime == LLAMA_CPP and not {"gguf", "safetensors"} & set(formats):
        kinds = _name(formats)
        return f"llama.cpp does not load {kinds} weights: set spec.runtime to vllm, or serve a GGUF variant."
    return ""


def _vllm_problem(formats: Collection[str], accelerator: Accelerator | None) -> str:
    if set(formats) == {"gguf"}:
        return "vllm serves safetensors, not GGUF files: set spec.runtime to llama.cpp, or serve the unquantized model."
    if accelerator is None:
        return "vllm needs a GPU, and none is offered: set spec.runtime to llama.cpp with a GGUF variant, or add one."
    if not _is_served_by_vllm(accelerator):
        return f"vllm does not serve on {_vendor(accelerator)} GPUs: set spec.runtime to llama.cpp."
    return ""


def choose_tensor_parallel(demand: Demand, accelerator: Accelerator, asked: int = 0) -> SplitChoice:
    """Over how many of a node's GPUs to split; ``asked`` is spec.tensorParallelSize, 0 for auto.

    The fewest that have the memory: every further one costs communication on each layer. Raises UnknownTypeError for
    an unknown KV type.
    """
    if asked:
        problem = _split_problem(demand, accelerator, asked)
        return SplitChoice(0 if problem else asked, problem or f"{asked}: spec.tensorParallelSize asks for it.")
    offered = accelerator.usable_bytes
    sizes = tensor_parallel_sizes(demand.shape, accelerator.devices)
    if not sizes:
        return SplitChoice(0, f"No {accelerator} is offered: see whether its device plugin runs.")
    if not offered:
        return SplitChoice(1, f"1: nobody publishes the memory of {accelerator}; set spec.tensorParallelSize for more.")
    for size in sizes:
        needed = device_bytes(demand, size, accelerator)
        if needed <= offered:
            each = "it has" if size == 1 else f"the fewest of the node's {accelerator.devices} that have"
            return SplitChoice(size, f"{size}: {each} the memory, {format_bytes(needed)} of {format_bytes(offered)}.")
    lacking = format_bytes(device_bytes(demand, sizes[-1], accelerator) - offered)
    text = f"Even {sizes[-1]} of the node's {accelerator.devices} x {accelerator} lack {lacking} each"
    return SplitChoice(0, f"{text}: shorten spec.contextSize, lower spec.parallel, or serve a smaller variant.")


def _split_problem(demand: Demand, accelerator: Accelerator, asked: int) -> str:
    """Why a size that was asked for will not do, as a sentence with those that will, or nothing."""
    sizes = tensor_parallel_sizes(demand.shape, accelerator.devices)
    why = why_not_split(demand.shape, asked) if demand.shape else ""
    if asked > accelerator.devices:
        why = _too_few(accelerator)
    if not why:
        return ""
    usable = ", ".join(map(str, sizes)) or "none"
    return f"spec.tensorParallelSize {asked} is not possible: {why}. Sizes that are: {usable}."


def _too_few(accelerator: Accelerator) -> str:
    if accelerator.partition and accelerator.devices < accelerator.count:
        return f"partitions of {accelerator} cannot work together"
    if accelerator.shared_by > 1:
        return f"the GPUs of {accelerator} are shares of one, and cannot work together"
    return f"a node has {accelerator.devices} x {accelerator}, and an engine uses GPUs of one node"
