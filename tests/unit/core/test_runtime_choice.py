"""runtime: auto and tensorParallelSize, as tables."""

import pytest

from slm_contract.results import ModelShape
from slm_operator.core.fit_demand import Demand
from slm_operator.core.inventory import Accelerator
from slm_operator.core.runtime_choice import choose_runtime, why_not_parallel
from slm_operator.core.sizes import gguf_bytes
from slm_operator.core.tensor_parallel import tensor_parallel_sizes

QWEN_8B = ModelShape(
    architecture="qwen3",
    source_type="BF16",
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=12288,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    tied_embeddings=False,
    metadata_bytes=6_000_000,
)
BF16 = gguf_bytes(QWEN_8B, "BF16")
L4 = Accelerator("NVIDIA", "L4", 4, 23034 * 2**20, resource="nvidia.com/gpu")
MI300X = Accelerator("AMD", "Instinct MI300X OAM", 8, 196592 * 2**20, resource="amd.com/gpu")
METAL = Accelerator("Apple", "M4 Max", 1, 98304 * 2**20)
MIG = Accelerator("NVIDIA", "A100-SXM4-40GB", 14, 4864 * 2**20, resource="nvidia.com/gpu", partition="1g.5gb")
SHARED = Accelerator("NVIDIA", "A10G", 10, 23028 * 2**20, resource="nvidia.com/gpu", shared_by=10)


@pytest.mark.parametrize(
    ("formats", "concurrency", "accelerator", "runtime", "reason"),
    [
        ({"gguf"}, 32, L4, "llama.cpp", "llama.cpp: it serves GGUF files."),
        ({"gguf"}, 1, None, "llama.cpp", "llama.cpp: it serves on CPUs."),
        ({"safetensors"}, 32, None, "llama.cpp", "llama.cpp: it serves on CPUs."),
        ({"safetensors"}, 32, METAL, "llama.cpp", "llama.cpp: it serves on Apple GPUs."),
        ({"safetensors"}, 1, L4, "vllm", "vllm: it serves safetensors as they are on a GPU."),
        ({"safetensors"}, 5, L4, "vllm", "vllm: it serves 5 requests at the same time faster on a GPU."),
        ({"safetensors", "gguf"}, 5, MI300X, "vllm", "vllm: it serves 5 requests at the same time faster on a GPU."),
        (
            {"safetensors", "gguf"},
            4,
            L4,
            "llama.cpp",
            "llama.cpp: it serves 4 requests at the same time as fast and takes less memory.",
        ),
    ],
)
def test_auto_chooses_by_format_hardware_and_concurrency(
    formats: set[str], concurrency: int, accelerator: Accelerator | None, runtime: str, reason: str
) -> None:
    choice = choose_runtime("auto", formats, concurrency, accelerator)
    assert (choice.runtime, choice.reason) == (runtime, reason)


def test_auto_takes_the_engine_that_is_configured_and_says_what_it_would_have_taken() -> None:
    choice = choose_runtime("auto", {"safetensors"}, 8, L4, ["llama.cpp"])
    assert choice.runtime == "llama.cpp"
    assert choice.reason == (
        "llama.cpp: vllm is not configured, which would be chosen as it serves 8 requests at the same time faster on a"
        " GPU."
    )


@pytest.mark.parametrize(
    ("asked", "formats", "accelerator", "reason"),
    [
        ("vllm", {"gguf"}, L4, "vllm serves safetensors, not GGUF files: set spec.runtime to llama.cpp"),
        ("vllm", {"safetensors"}, None, "vllm needs a GPU, and none is offered"),
        ("vllm", {"safetensors"}, METAL, "vllm does not serve on Apple GPUs: set spec.runtime to llama.cpp."),
        (
            "sglang",
            {"gguf"},
            L4,
            "sglang is not configured: give it an image (on a laptop, a program), or choose llama.cpp or vllm.",
        ),
    ],
)
def test_an_engine_that_cannot_serve_is_refused_with_what_to_change(
    asked: str, formats: set[str], accelerator: Accelerator | None, reason: str
) -> None:
    choice = choose_runtime(asked, formats, 1, accelerator)
    assert choice.runtime == ""
    assert choice.reason.startswith(reason)


QUANTIZED = "The weights are quantized already (`quantization_config`): use the repository they were made from."
ONLY_VLLM = "vllm alone serves this model: it needs a GPU, or spec.runtime vllm where it is installed for CPUs."
NO_GGUF = "llama.cpp serves GGUF, and none can be made of this model: set spec.runtime to vllm."


def test_what_vllm_alone_loads_is_nobodys_where_it_is_not_configured() -> None:
    choice = choose_runtime("auto", {"awq"}, 1, L4, ["llama.cpp"], not_convertible=QUANTIZED)
    only = "vllm is not configured, and it alone serves this model: give it an image."
    assert (choice.runtime, choice.reason) == ("", f"{only} {QUANTIZED}")


@pytest.mark.parametrize(
    ("asked", "format_", "accelerator", "runtime", "reason"),
    [
        ("auto", "awq", L4, "vllm", "vllm: it alone loads this model, whose weights are awq."),
        ("auto", "gptq", MI300X, "vllm", "vllm: it alone loads this model, whose weights are gptq."),
        ("auto", "safetensors", L4, "vllm", "vllm: it alone loads this model, whose weights are safetensors."),
        ("vllm", "fp8", L4, "vllm", "vllm: spec.runtime asks for it."),
        ("auto", "fp8", None, "", f"{ONLY_VLLM} {QUANTIZED}"),
        ("vllm", "fp8", None, "", f"{ONLY_VLLM} {QUANTIZED}"),
        ("llama.cpp", "awq", L4, "", f"{NO_GGUF} {QUANTIZED}"),
        ("auto", "awq", METAL, "", "vllm does not serve on Apple GPUs: serve a model that llama.cpp loads."),
    ],
)
def test_what_cannot_be_converted_is_vllms_or_refused_with_the_reason(
    asked: str, format_: str, accelerator: Accelerator | None, runtime: str, reason: str
) -> None:
    choice = choose_runtime(asked, {format_}, 1, accelerator, not_convertible=QUANTIZED)
    assert (choice.runtime, choice.reason) == (runtime, reason)


def test_an_engine_that_is_asked_for_is_taken() -> None:
    choice = choose_runtime("llama.cpp", {"safetensors"}, 64, L4)
    assert (choice.runtime, choice.reason) == ("llama.cpp", "llama.cpp: spec.runtime asks for it.")


@pytest.mark.parametrize(
    ("change", "devices", "sizes"),
    [
        ({}, 8, [1, 2, 4, 8]),
        ({}, 7, [1, 2, 4]),
        ({}, 16, [1, 2, 4, 8, 16]),
        ({}, 0, []),
        ({"heads": 12, "kv_heads": 2}, 8, [1, 2, 4]),
        ({"heads": 14, "kv_heads": 2}, 8, [1, 2]),
        ({"heads": 9, "kv_heads": 3}, 8, [1]),
        ({"heads": 32, "kv_heads": 6}, 8, [1, 2]),
        ({"intermediate_size": 4098}, 8, [1, 2]),
    ],
)
def test_sizes_are_powers_of_two_that_divide_heads_and_layers(
    change: dict[str, int], devices: int, sizes: list[int]
) -> None:
    assert tensor_parallel_sizes(QWEN_8B.model_copy(update=change), devices) == sizes


@pytest.mark.parametrize(
    ("asked", "accelerator", "reason"),
    [
        (3, L4, "it does not divide the model's 32 attention heads. Sizes that are: 1, 2, 4."),
        (8, L4, "a node has 4 x NVIDIA L4, and an engine uses GPUs of one node. Sizes that are: 1, 2, 4."),
        (2, MIG, "partitions of NVIDIA A100-SXM4-40GB, MIG 1g.5gb cannot work together. Sizes that are: 1."),
        (2, SHARED, "the GPUs of NVIDIA A10G are shares of one, and cannot work together. Sizes that are: 1."),
    ],
)
def test_a_size_that_is_not_possible_is_refused_with_those_that_are(
    asked: int, accelerator: Accelerator, reason: str
) -> None:
    problem = why_not_parallel(Demand(QWEN_8B, BF16, 4096, 4, engine="vllm"), accelerator, asked)
    assert problem == f"spec.tensorParallelSize {asked} is not possible: {reason}"


@pytest.mark.parametrize("shape", [QWEN_8B, None])
def test_a_possible_size_is_no_problem_and_neither_is_one_that_nobody_can_judge(shape: ModelShape | None) -> None:
    assert not why_not_parallel(Demand(shape, BF16, 4096, 4, engine="vllm"), L4, 4)
