"""Models that no GGUF can be made of: what is told of them, what serves them, and what is refused."""

from typing import Any

import pytest

from slm_operator.core.placement import CPU, LLAMA_CPP, VLLM, Program
from slm_operator.core.plan import ObjectKey
from tests.support.memory_cluster import Operated
from tests.support.planning import QUANTIZED, manifest, succeed_as
from tests.unit.core.test_choosing import CPUS, GPU_LLAMA, H100, T4, container, node, operate, status

AWQ_8B, AWQ_32B = "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-32B-AWQ"
VLLM_ON_CPUS = {(VLLM, CPU): Program(("vllm",), "vllm-cpu:1")}
ON_CPUS = "vllm alone serves this model, on CPUs where spec.runtime is vllm and spec.accelerator none."
KNOWN = "Qwen3ForCausalLM, 1,700,000,000 parameters (Small), 4.89 GiB verified and stored."
ONLY_ENGINES = "Only engines that load safetensors themselves can serve it (vllm); a QuantJob cannot take it"
Manifest = dict[str, Any]


def told(made: Operated, kind: str, name: str) -> Manifest:
    return dict(made.cluster.objects[ObjectKey(kind, "default", name)]["status"])


async def test_the_model_is_ready_and_says_who_serves_it_and_that_no_job_takes_it() -> None:
    made = await operate([H100], AWQ_8B)
    assert made.told("SLMModel", "m") == ("Ready", f"{KNOWN} {ONLY_ENGINES}: {QUANTIZED}")
    model = told(made, "SLMModel", "m")
    assert (model["format"], model["conversionMessage"], model["dimensions"]["kvHeads"]) == ("awq", QUANTIZED, 8)
    assert "shape" not in model
    assert model["forecast"] == []


@pytest.mark.parametrize("spec", [{}, {"runtime": "vllm"}, {"parallel": 16}], ids=str)
async def test_vllm_serves_it_on_a_gpu_whatever_else_is_installed(spec: Manifest) -> None:
    made = await operate([H100, CPUS], AWQ_8B, GPU_LLAMA, **spec)
    assert container(made)["command"][0] == "vllm"
    # It reads from config.json how the weights were quantized, and in what they compute.
    assert not {"--quantization", "--dtype", "--trust-remote-code"} & set(container(made)["command"])
    assert made.told("InferenceService", "s")[0] != "RuntimeNotAvailable"


async def test_auto_says_that_vllm_alone_loads_it_and_memory_counts_weights_as_they_are_and_the_kv_cache() -> None:
    found = status(await operate([H100], AWQ_32B))
    assert found["runtimeMessage"] == "vllm: it alone loads this model, whose weights are awq."
    assert found["accelerator"]["message"] == (
        "1 x NVIDIA H100-80GB-HBM3, as on node-0: it takes 29.38 GiB of 79.65 GiB."
    )


async def test_where_vllm_is_asked_for_on_cpus_it_serves_there() -> None:
    made = await operate([CPUS], AWQ_8B, VLLM_ON_CPUS, runtime="vllm", accelerator="none")
    assert container(made)["image"] == "vllm-cpu:1"
    assert status(made)["runtimeMessage"] == "vllm: spec.runtime asks for it."


@pytest.mark.parametrize(
    ("nodes", "spec", "reason", "message"),
    [
        ([CPUS], {}, "DoesNotFit", "None offers a GPU: add one"),
        ([CPUS], {}, "DoesNotFit", ON_CPUS),
        ([CPUS, T4], {"contextSize": 40960, "parallel": 8}, "DoesNotFit", "lacks "),
        (
            [H100],
            {"runtime": "llama.cpp"},
            "RuntimeNotAvailable",
            f"llama.cpp serves GGUF, and none can be made of this model: set spec.runtime to vllm. {QUANTIZED}",
        ),
        (
            [H100],
            {"extraArgs": ["--temp", "0"]},
            "RuntimeNotAvailable",
            f"llama.cpp serves GGUF, and none can be made of this model: set spec.runtime to vllm. {QUANTIZED}",
        ),
        (
            [H100],
            {"accelerator": "none"},
            "RuntimeNotAvailable",
            "vllm alone serves this model: it needs a GPU, or spec.runtime vllm where it is installed for CPUs. The",
        ),
    ],
)
async def test_where_vllm_does_not_serve_it_the_sentence_says_what_would(
    nodes: list[Manifest], spec: Manifest, reason: str, message: str
) -> None:
    made = await operate(nodes, AWQ_8B, **spec)
    found = made.told("InferenceService", "s")
    assert found[0] == reason
    assert message in found[1]
    assert "It would fit with variant" not in found[1]
    assert ObjectKey("Deployment", "default", "s") not in made.cluster.objects


async def test_a_quant_job_is_stalled_and_names_the_model_and_why() -> None:
    made = await operate([H100], AWQ_8B)
    await made.put(manifest("QuantJob", "q", {"modelRef": {"name": "m"}, "variants": ["Q8_0"]}))
    await made.settle(succeed_as(AWQ_8B))
    assert made.told("QuantJob", "q") == (
        "NotConvertible",
        f"No variant can be made of SLMModel m, which vllm alone serves. {QUANTIZED}",
    )
    stalled = next(each for each in told(made, "QuantJob", "q")["conditions"] if each["type"] == "Stalled")
    assert stalled["status"] == "True"
    jobs = [key.name for key in made.cluster.objects if key.kind == "Job" and key.name.startswith("q-")]
    assert jobs == []


async def test_gpus_for_which_only_llama_cpp_has_an_image_are_named_as_such() -> None:
    xe = node({"gpu.intel.com/memory.max": "17179869184"}, {"memory": "64Gi", "gpu.intel.com/xe": "1"})
    made = await operate([xe], AWQ_8B, {(LLAMA_CPP, "Intel"): Program(("llama-server",), "llama-cpp-sycl:1")})
    message = "No engine that may serve this has an image for GPUs of Intel: give it one."
    assert made.told("InferenceService", "s") == ("RuntimeNotAvailable", message)
