"""``runtime: auto`` and ``tensorParallelSize``: which engine, whether over so many GPUs, and why, as a sentence."""

from collections.abc import Collection
from dataclasses import dataclass

from slm_operator.core.fit_demand import Demand
from slm_operator.core.inventory import Accelerator
from slm_operator.core.placement import LLAMA_CPP, VLLM
from slm_operator.core.tensor_parallel import tensor_parallel_sizes, why_not_split

LOW_CONCURRENCY = 4
"""Requests at the same time up to which llama.cpp serves as well as vLLM on a GPU: continuous batching and paged
attention pay with many, and llama.cpp starts faster and takes less memory."""
VLLM_VENDORS = frozenset({"NVIDIA", "AMD", "Intel"})
"""Vendors whose GPUs vLLM supports: CUDA, ROCm and XPU."""


@dataclass(frozen=True)
class RuntimeChoice:
    """An engine, or why there is none."""

    runtime: str
    """llama.cpp or vllm; empty where nothing can serve the model here."""
    reason: str
    """Why, as a sentence; where there is no engine, with what to change."""


def choose_runtime(
    asked: str,
    formats: Collection[str],
    concurrency: int,
    accelerator: Accelerator | None,
    configured: Collection[str] = (LLAMA_CPP, VLLM),
    not_convertible: str = "",
) -> RuntimeChoice:
    """The engine for a model that is there in ``formats`` (those of ``WeightsFormat``).

    ``asked`` is spec.runtime; what is not GGUF counts as GGUF too, as it can be converted, unless ``not_convertible``
    says why not, and ``accelerator`` is None on CPUs. ``configured`` are the engines that have an image.
    """
    if asked != "auto":
        problem = _problem(asked, formats, accelerator, configured, not_convertible)
        return RuntimeChoice("" if problem else asked, problem or f"{asked}: spec.runtime asks for it.")
    wanted, reason = _prefer(formats, concurrency, accelerator, not_convertible)
    problem = _problem(wanted, formats, accelerator, configured, not_convertible)
    if not problem:
        return RuntimeChoice(wanted, f"{wanted}: {reason}.")
    other = LLAMA_CPP if wanted == VLLM else VLLM
    if _problem(other, formats, accelerator, configured, not_convertible):
        return RuntimeChoice("", problem)
    return RuntimeChoice(other, f"{other}: {wanted} is not configured, which would be chosen as {reason}.")


def _prefer(
    formats: Collection[str], concurrency: int, accelerator: Accelerator | None, not_convertible: str
) -> tuple[str, str]:
    """What serves best where everything is configured, and why, as half a sentence."""
    rules = (
        (bool(not_convertible), VLLM, f"it alone loads this model, whose weights are {_name(formats)}"),
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
    return ", ".join(sorted(formats))


def _count(concurrency: int) -> str:
    return "1 request" if concurrency == 1 else f"{concurrency} requests"


def _problem(
    runtime: str,
    formats: Collection[str],
    accelerator: Accelerator | None,
    configured: Collection[str],
    not_convertible: str,
) -> str:
    """Why an engine cannot serve the model here, as a sentence, or nothing."""
    if not_convertible and (why := _why_not_unconverted(runtime, accelerator, configured)):
        return f"{why} {not_convertible}"
    if runtime not in configured:
        others = " or ".join(sorted(configured))
        return f"{runtime} is not configured: give it an image (on a laptop, a program), or choose {others}."
    return _vllm_problem(formats, accelerator, not_convertible) if runtime == VLLM else ""


def _why_not_unconverted(runtime: str, accelerator: Accelerator | None, configured: Collection[str]) -> str:
    """Why an engine does not serve what no GGUF can be made of, or nothing."""
    if runtime == LLAMA_CPP:
        return "llama.cpp serves GGUF, and none can be made of this model: set spec.runtime to vllm."
    if runtime == VLLM and accelerator is None:
        needs = "it needs a GPU, or spec.runtime vllm where it is installed for CPUs"
        return f"vllm alone serves this model: {needs}."
    if runtime == VLLM and VLLM not in configured:
        return "vllm is not configured, and it alone serves this model: give it an image."
    return ""


def _vllm_problem(formats: Collection[str], accelerator: Accelerator | None, not_convertible: str) -> str:
    if set(formats) == {"gguf"}:
        return "vllm serves safetensors, not GGUF files: set spec.runtime to llama.cpp, or serve the unquantized model."
    if accelerator is None:
        return "vllm needs a GPU, and none is offered: set spec.runtime to llama.cpp with a GGUF variant, or add one."
    if not _is_served_by_vllm(accelerator):
        instead = "serve a model that llama.cpp loads" if not_convertible else "set spec.runtime to llama.cpp"
        return f"vllm does not serve on {_vendor(accelerator)} GPUs: {instead}."
    return ""


def why_not_parallel(demand: Demand, accelerator: Accelerator, asked: int) -> str:
    """Why vLLM cannot split over the GPUs that spec.tensorParallelSize asks for, and what will do; or nothing."""
    sizes = tensor_parallel_sizes(demand.shape, accelerator.devices)
    why = why_not_split(demand.shape, asked) if demand.shape else ""
    if not why and demand.draft and demand.draft.shape and (of_draft := why_not_split(demand.draft.shape, asked)):
        why = f"the draft model is split like the served one, and {of_draft}"
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
