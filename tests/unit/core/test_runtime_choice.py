"""runtime: auto and tensorParallelSize: auto, as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_contract.results import ModelShape
from slm_operator.core.fit_demand import Demand, device_bytes
from slm_operator.core.inventory import Accelerator
from slm_operator.core.runtime_choice import choose_runtime, choose_tensor_parallel
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
        ({"awq"}, 1, L4, "vllm", "vllm: it serves AWQ weights."),
        ({"gptq"}, 1, MI300X, "vllm", "vllm: it serves GPTQ weights."),
        ({"fp8"}, 1, L4, "vllm", "vllm: it serves FP8 weights."),
        (
            {"fp8"},
            1,
            None,
            "",
            "vllm needs a GPU, and none is offered: set spec.runtime to llama.cpp with a GGUF variant, or add one.",
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
        ("llama.cpp", {"awq"}, L4, "llama.cpp does not load AWQ weights: set spec.runtime to vllm"),
        ("sglang", {"gguf"}, L4, "sglang is not configured: give it an image, or choose one of llama.cpp, vllm."),
    ],
)
def test_an_engine_that_cannot_serve_is_refused_with_what_to_change(
    asked: str, formats: set[str], accelerator: Accelerator | None, reason: str
) -> None:
    choice = choose_runtime(asked, formats, 1, accelerator)
    assert choice.runtime == ""
    assert choice.reason.startswith(reason)


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


def test_the_fewest_gpus_that_have_the_memory_are_taken_and_the_reason_says_so() -> None:
    demand = Demand(QWEN_8B, BF16, 4096, 16, engine="vllm")
    choice = choose_tensor_parallel(demand, L4)
    assert choice.size == 2
    assert choice.reason == "2: the fewest of the node's 4 that have the memory, 14.02 GiB of 22.49 GiB."
    alone = choose_tensor_parallel(demand, MI300X)
    assert (alone.size, alone.reason.startswith("1: it has the memory, ")) == (1, True)


def test_where_no_size_has_the_memory_the_reason_says_how_much_is_lacking() -> None:
    choice = choose_tensor_parallel(Demand(QWEN_8B, 10 * BF16, 4096, 16, engine="vllm"), L4)
    assert choice.size == 0
    assert choice.reason.startswith("Even 4 of the node's 4 x NVIDIA L4 lack ")
    assert choice.reason.endswith("shorten spec.contextSize, lower spec.parallel, or serve a smaller variant.")


def test_unknown_memory_gives_one_gpu_and_says_why() -> None:
    unknown = Accelerator("NVIDIA", "", 8, resource="nvidia.com/gpu")
    choice = choose_tensor_parallel(Demand(QWEN_8B, BF16, 4096, 16, engine="vllm"), unknown)
    assert choice.size == 1
    assert choice.reason == "1: nobody publishes the memory of NVIDIA; set spec.tensorParallelSize for more."


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
    choice = choose_tensor_parallel(Demand(QWEN_8B, BF16, 4096, 4, engine="vllm"), accelerator, asked)
    assert choice.size == 0
    assert choice.reason == f"spec.tensorParallelSize {asked} is not possible: {reason}"


def test_a_possible_size_that_is_asked_for_is_taken() -> None:
    choice = choose_tensor_parallel(Demand(QWEN_8B, BF16, 4096, 4, engine="vllm"), L4, 4)
    assert (choice.size, choice.reason) == (4, "4: spec.tensorParallelSize asks for it.")


@given(st.integers(1, 16), st.integers(1, 200), st.integers(1, 64), st.integers(1, 8))
def test_a_chosen_size_is_the_smallest_that_fits(devices: int, gib: int, slots: int, times: int) -> None:
    demand = Demand(QWEN_8B, times * BF16, 4096, slots, engine="vllm")
    accelerator = Accelerator("NVIDIA", "X", devices, gib * 2**30)
    choice = choose_tensor_parallel(demand, accelerator)
    enough = [
        size
        for size in tensor_parallel_sizes(QWEN_8B, devices)
        if device_bytes(demand, size, accelerator) <= gib * 2**30
    ]
    assert choice.size == (enough[0] if enough else 0)
