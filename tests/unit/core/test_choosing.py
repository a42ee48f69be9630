"""Which engine serves on what: manifests and nodes in, pods and sentences out."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_operator.core.choosing import Engines
from slm_operator.core.placement import CPU, LLAMA_CPP, VLLM, Program
from slm_operator.core.plan import ObjectKey
from slm_operator.factory import build_cluster_placement
from slm_operator.settings import OperatorSettings, RuntimeTemplate
from tests.support.memory_cluster import ON_CLUSTER, Operated
from tests.support.planning import succeed_as

RECORDED = yaml.safe_load((Path(__file__).parents[2] / "golden" / "nodes" / "cluster.yaml").read_text())
GPU_LLAMA = {(LLAMA_CPP, "NVIDIA"): Program(("llama-server",), "llama-cpp-cuda:1")}
Manifest = dict[str, Any]


def recorded(beginning: str) -> Manifest:
    """A real node's record as a Node, by how it is called."""
    (found,) = [each for each in RECORDED if each["node"].startswith(beginning)]
    return node(found["labels"], found["allocatable"])


def node(labels: Manifest, allocatable: Manifest, **spec: Any) -> Manifest:
    ready = [{"type": "Ready", "status": "True"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node", "labels": labels},
        "spec": spec,
        "status": {"allocatable": allocatable, "conditions": ready},
    }


H100, MI300X = recorded("Dell XE9680"), recorded("Azure ND96isr")
CPUS = node({}, {"cpu": "16", "memory": "64Gi"})
T4 = node({"nvidia.com/gpu.memory": "15360", "nvidia.com/gpu.count": "1"}, {"memory": "64Gi", "nvidia.com/gpu": "1"})
SHARED = node(
    {
        "nvidia.com/gpu.product": "NVIDIA-A10G-SHARED",
        "nvidia.com/gpu.memory": "23028",
        "nvidia.com/gpu.count": "1",
        "nvidia.com/gpu.replicas": "4",
    },
    {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "4"},
)
BARE = node({}, {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"})


def model(repo: str) -> Manifest:
    spec = {"source": {"huggingFace": {"repo": repo}}}
    return {"apiVersion": "slm.dev/v1alpha1", "kind": "SLMModel", "metadata": {"name": "m"}, "spec": spec}


def service(**spec: Any) -> Manifest:
    spec = {"modelRef": {"name": "m"}, **spec}
    return {"apiVersion": "slm.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "s"}, "spec": spec}


async def operate(
    nodes: list[Manifest], repo: str = "Qwen/Qwen3-8B", engines: Engines | None = None, **spec: Any
) -> Operated:
    """A service after everything was done for it."""
    placement = replace(ON_CLUSTER, engines={**ON_CLUSTER.engines, **(engines or {})})
    made = Operated(placement=placement)
    named = [{**each, "metadata": {**each["metadata"], "name": f"node-{at}"}} for at, each in enumerate(nodes)]
    await made.put(*named, model(repo), service(**spec))
    await made.settle(succeed_as(repo))
    return made


def status(made: Operated) -> Manifest:
    return dict(made.cluster.objects[ObjectKey("InferenceService", "default", "s")]["status"])


def container(made: Operated) -> Manifest:
    deployment = made.cluster.objects[ObjectKey("Deployment", "default", "s")]
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize(
    ("nodes", "spec", "runtime", "resource", "count", "reason"),
    [
        ([CPUS], {}, LLAMA_CPP, "", 0, "llama.cpp: it serves on CPUs."),
        ([], {}, LLAMA_CPP, "", 0, "llama.cpp: it serves on CPUs."),
        ([CPUS, H100], {}, VLLM, "nvidia.com/gpu", 1, "vllm: it serves safetensors as they are on a GPU."),
        (
            [H100],
            {"parallel": 16},
            VLLM,
            "nvidia.com/gpu",
            1,
            "vllm: it serves 16 requests at the same time faster on a GPU.",
        ),
        ([MI300X], {}, VLLM, "amd.com/gpu", 1, "vllm: it serves safetensors as they are on a GPU."),
        ([H100], {"accelerator": "none"}, LLAMA_CPP, "", 0, "llama.cpp: it serves on CPUs."),
        ([H100], {"runtime": "llama.cpp"}, LLAMA_CPP, "", 0, "llama.cpp: spec.runtime asks for it."),
        (
            [H100],
            {"extraArgs": ["--temp", "0"]},
            LLAMA_CPP,
            "",
            0,
            "llama.cpp: spec.extraArgs are its arguments where spec.runtime is auto.",
        ),
        ([H100, MI300X], {"accelerator": "amd.com/gpu"}, VLLM, "amd.com/gpu", 1, "vllm: it serves safetensors"),
        ([H100], {"tensorParallelSize": 4}, VLLM, "nvidia.com/gpu", 4, "vllm: it serves safetensors"),
        ([BARE], {"runtime": "vllm"}, VLLM, "nvidia.com/gpu", 1, "vllm: spec.runtime asks for it."),
        # A pool of nodes that is empty until a pod waits for one.
        ([CPUS], {"accelerator": "nvidia.com/gpu"}, VLLM, "nvidia.com/gpu", 1, "vllm: it serves safetensors"),
        # Too small for it, with or without an engine for GPUs.
        ([T4, CPUS], {}, LLAMA_CPP, "", 0, "llama.cpp: it serves on CPUs."),
        # Its label says that the node is not for everybody.
        ([H100, CPUS], {"nodeSelector": {"disk": "fast"}}, LLAMA_CPP, "", 0, "llama.cpp: it serves on CPUs."),
    ],
)
async def test_what_nodes_offer_and_the_spec_asks_for_decide(
    nodes: list[Manifest], spec: Manifest, runtime: str, resource: str, count: int, reason: str
) -> None:
    made = await operate(nodes, **spec)
    told = status(made)
    assert told["runtime"] == runtime
    assert told["runtimeMessage"].startswith(reason)
    found = told["accelerator"]
    assert (found["resource"], found["count"]) == (resource, count)
    engine = container(made)
    assert engine["command"][0] == {VLLM: "vllm", LLAMA_CPP: "llama-server"}[runtime]
    for part in ("requests", "limits"):
        devices = {name: amount for name, amount in engine["resources"][part].items() if "/" in name}
        assert devices == ({resource: str(count)} if resource else {})


async def test_llama_cpp_takes_gpus_where_there_is_an_image_for_them() -> None:
    made = await operate([H100], engines=GPU_LLAMA, runtime="llama.cpp")
    engine = container(made)
    assert engine["image"] == "llama-cpp-cuda:1"
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--n-gpu-layers all" in " ".join(engine["command"])
    assert status(made)["accelerator"]["message"].startswith("1 x NVIDIA H100-80GB-HBM3, as on node-0: it takes ")


async def test_the_sentence_says_how_much_of_a_gpu_is_taken() -> None:
    told = status(await operate([H100], "Qwen/Qwen3-32B", tensorParallelSize=2))
    message = "2 x NVIDIA H100-80GB-HBM3, as on node-0: it takes 39.71 GiB of 79.65 GiB each."
    assert told["accelerator"]["message"] == message


@pytest.mark.parametrize(
    ("nodes", "spec", "reason", "message"),
    [
        (
            [T4],
            {"runtime": "vllm"},
            "DoesNotFit",
            "The engine needs 17.63 GiB (weights 15.26 GiB, KV cache 2.25 GiB for 4 slots of 4096 tokens, buffers",
        ),
        # vLLM serves no variant of a QuantJob, so none is proposed.
        ([T4], {"runtime": "vllm"}, "DoesNotFit", "lacks 4.97 GiB of 19.97 GiB. It would fit with 2 x NVIDIA in one"),
        ([T4], {"accelerator": "gpu"}, "DoesNotFit", "It would fit with "),
        ([T4], {"accelerator": "nvidia.com/gpu"}, "DoesNotFit", "It would fit with "),
        ([CPUS], {"accelerator": "gpu"}, "DoesNotFit", "None offers a GPU: add one"),
        (
            [CPUS],
            {"accelerator": "gpu"},
            "DoesNotFit",
            "Where an autoscaler brings nodes with GPUs, name their resource",
        ),
        ([CPUS], {"accelerator": "habana.ai/gaudi"}, "RuntimeNotAvailable", "is no resource of NVIDIA, AMD or Intel"),
        ([CPUS], {"runtime": "vllm"}, "DoesNotFit", "None offers a GPU: add one"),
        (
            [H100],
            {"tensorParallelSize": 3},
            "RuntimeNotAvailable",
            "spec.tensorParallelSize 3 is not possible: it does not divide the model's 32 attention heads.",
        ),
        (
            [CPUS],
            {"accelerator": "none", "runtime": "vllm"},
            "RuntimeNotAvailable",
            "vllm needs a GPU, and none is offered: set spec.runtime to llama.cpp",
        ),
        (
            [CPUS],
            {"accelerator": "gpu.intel.com/xe"},
            "RuntimeNotAvailable",
            "is not configured: give it an image",
        ),
    ],
)
async def test_what_cannot_be_served_says_why_and_starts_nothing(
    nodes: list[Manifest], spec: Manifest, reason: str, message: str
) -> None:
    if spec.get("tensorParallelSize"):
        spec = {**spec, "runtime": "vllm"}
    made = await operate(nodes, **spec)
    told = made.told("InferenceService", "s")
    assert told[0] == reason
    assert message in told[1]
    assert ObjectKey("Deployment", "default", "s") not in made.cluster.objects


async def test_without_an_image_of_vllm_it_is_refused_with_what_there_is() -> None:
    placement = replace(ON_CLUSTER, engines={(LLAMA_CPP, CPU): Program(("llama-server",), "llama-cpp:1")})
    made = Operated(placement=placement)
    await made.put(H100, model("Qwen/Qwen3-8B"), service(runtime="vllm"))
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    message = "vllm is not configured: give it an image (on a laptop, a program), or choose llama.cpp."
    assert made.told("InferenceService", "s") == ("RuntimeNotAvailable", message)


SGLANG = {
    "format": "safetensors",
    "images": {"nvidia": "sglang:1"},
    "command": ["sglang", "--model-path", "$(MODEL)", "--tp-size=$(GPUS)", "--port", "$(PORT)", "--max=$(TOKENS)"],
    "variables": {"SGLANG_NAME": "$(NAME)"},
    "healthPath": "/health_generate",
    "startSeconds": 900,
}


async def operate_sglang(node: Manifest, **spec: Any) -> Operated:
    """With an engine that only the settings know."""
    settings = OperatorSettings(runtimes={"sglang": RuntimeTemplate.model_validate(SGLANG)})
    made = Operated(placement=build_cluster_placement(settings))
    await made.put(node, model("Qwen/Qwen3-8B"), service(runtime="sglang", **spec))
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    return made


async def test_a_third_engine_is_settings_and_no_code() -> None:
    made = await operate_sglang(H100, tensorParallelSize=2, contextSize=1024, parallel=8)
    engine, told = container(made), status(made)
    folder = "/store/snapshots/sha256/" + told["digest"].removeprefix("sha256:")
    words = ["sglang", "--model-path", folder, "--tp-size=2", "--port", "$(PORT)", "--max=8192"]
    assert (engine["image"], engine["command"]) == ("sglang:1", words)
    assert {"name": "SGLANG_NAME", "value": "s"} in engine["env"]
    assert engine["startupProbe"]["httpGet"]["path"] == "/health_generate"
    assert engine["startupProbe"]["failureThreshold"] == 900
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert (told["runtime"], told["runtimeMessage"]) == ("sglang", "sglang: spec.runtime asks for it.")


async def test_a_third_engine_is_held_to_the_same_rules() -> None:
    made = await operate_sglang(H100, tensorParallelSize=3)
    assert made.told("InferenceService", "s")[0] == "RuntimeNotAvailable"
    made = await operate_sglang(H100, accelerator="none")
    assert made.told("InferenceService", "s")[1].startswith("sglang needs a GPU, and none is offered")


async def test_an_engine_that_nobody_set_up_is_refused_with_those_there_are() -> None:
    made = await operate([H100], runtime="sglang")
    message = "sglang is not configured: give it an image (on a laptop, a program), or choose llama.cpp or vllm."
    assert made.told("InferenceService", "s") == ("RuntimeNotAvailable", message)


def test_settings_of_engines_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = '{"%s": {"format": "%s", "images": {"cpu": "x"}, "command": ["x"]}}'
    for variable, value, message in (
        ("SLM_ENGINE_IMAGES", "vllm/tpu=x", "'vllm/tpu=x' names no engine: write llama.cpp or vllm"),
        ("SLM_ENGINE_IMAGES", "vllm/nvidia", "names no engine"),
        ("SLM_RUNTIMES", known % ("vllm", "gguf"), "choose another name"),
        ("SLM_RUNTIMES", known % ("x", "onnx"), "runtimes.x.format"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(variable, value)
            with pytest.raises(ValueError, match=re.escape(message)):
                OperatorSettings()


def test_settings_bring_engines_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_ENGINE_IMAGES", "vllm/nvidia=vllm:1, llama.cpp/amd=rocm:1,vllm/cpu=host:5000/vllm@sha256:x")
    monkeypatch.setenv("SLM_RUNTIMES", json.dumps({"sglang": SGLANG}))
    engines = build_cluster_placement(OperatorSettings()).engines
    assert {key: program.image for key, program in engines.items()} == {
        (LLAMA_CPP, CPU): "llama-cpp",
        (VLLM, "NVIDIA"): "vllm:1",
        (LLAMA_CPP, "AMD"): "rocm:1",
        (VLLM, CPU): "host:5000/vllm@sha256:x",
        ("sglang", "NVIDIA"): "sglang:1",
    }


async def test_a_choice_stands_whatever_becomes_of_the_nodes_until_the_spec_changes() -> None:
    made = await operate([CPUS])
    before = container(made)
    await made.put({**H100, "metadata": {**H100["metadata"], "name": "new"}})
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made) == before
    await made.put(service(parallel=8))
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made)["command"][0] == "vllm"
    assert status(made)["accelerator"]["resource"] == "nvidia.com/gpu"


async def test_where_no_node_takes_its_engines_gpus_that_are_there_do() -> None:
    made = await operate([H100])
    del made.cluster.objects[ObjectKey("Node", "default", "node-0")]
    await made.put({**MI300X, "metadata": {**MI300X["metadata"], "name": "other"}})
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made)["image"] == "vllm-openai:1"
    refuse_engine(made)
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made)["image"] == "vllm-openai-rocm:1"


@pytest.mark.parametrize("spec", [{}, {"accelerator": "nvidia.com/gpu"}, {"accelerator": "gpu"}], ids=str)
@pytest.mark.parametrize("left", ["cordoned", "gone"])
async def test_a_node_that_is_drained_or_yet_to_come_changes_no_choice(spec: Manifest, left: str) -> None:
    made = await operate([{**H100, "spec": {}}, CPUS], "Qwen/Qwen3-32B", tensorParallelSize=2, **spec)
    before, key = container(made), ObjectKey("Node", "default", "node-0")
    if left == "gone":
        del made.cluster.objects[key]
    else:
        made.cluster.objects[key]["spec"] = {"unschedulable": True}
    refuse_engine(made)
    await made.settle(succeed_as("Qwen/Qwen3-32B"))
    assert container(made) == before
    assert status(made)["accelerator"]["count"] == 2


async def test_a_service_of_before_stays_where_it_is_until_it_is_asked_for_anew() -> None:
    made = await operate([])
    found = made.cluster.objects[ObjectKey("InferenceService", "default", "s")]
    found["status"] = {
        name: value for name, value in found["status"].items() if name not in ("accelerator", "choiceDigest")
    }
    before = container(made)
    await made.put({**H100, "metadata": {**H100["metadata"], "name": "new"}})
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made) == before
    assert status(made)["runtimeMessage"].startswith("llama.cpp: it served this before engines were chosen")
    found["metadata"]["annotations"] = {"slm.dev/retry": "1"}
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made)["command"][0] == "vllm"


async def test_an_engine_that_is_set_up_later_changes_nothing_of_others() -> None:
    made = await operate([H100])
    before = container(made)
    del made.cluster.objects[ObjectKey("Node", "default", "node-0")]
    made.placement = replace(ON_CLUSTER, engines={**ON_CLUSTER.engines, **GPU_LLAMA})
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made) == before


async def test_an_engine_that_is_taken_away_is_replaced() -> None:
    made = await operate([H100, CPUS])
    made.placement = replace(ON_CLUSTER, engines={(LLAMA_CPP, CPU): Program(("llama-server",), "llama-cpp:1")})
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made)["command"][0] == "llama-server"


async def test_gpus_for_which_no_engine_has_an_image_are_told_of() -> None:
    only = {(LLAMA_CPP, CPU): Program(("llama-server",), "llama-cpp:1")}
    for spec in ({"accelerator": "gpu"}, {"accelerator": "nvidia.com/gpu"}):
        made = Operated(placement=replace(ON_CLUSTER, engines=only))
        await made.put(H100, model("Qwen/Qwen3-8B"), service(**spec))
        await made.settle(succeed_as("Qwen/Qwen3-8B"))
        reason, message = made.told("InferenceService", "s")
        assert reason == "RuntimeNotAvailable"
        assert message == "No engine that may serve this has an image for GPUs of NVIDIA: give it one."


@pytest.mark.parametrize(
    ("taint", "runtime"),
    [
        ({"key": "nvidia.com/gpu", "effect": "NoSchedule"}, VLLM),
        ({"key": "nvidia.com/gpu", "effect": "NoExecute"}, VLLM),
        ({"key": "team", "value": "a", "effect": "NoSchedule"}, LLAMA_CPP),
    ],
)
async def test_a_chosen_node_is_one_that_the_pod_tolerates(taint: Manifest, runtime: str) -> None:
    mixed = recorded("Supermicro with A100")
    for gpus in (H100, mixed):
        made = await operate([{**gpus, "spec": {"taints": [taint]}}, CPUS], "Qwen/Qwen3-0.6B")
        assert status(made)["runtime"] == runtime
        template = made.cluster.objects[ObjectKey("Deployment", "default", "s")]["spec"]["template"]["spec"]
        tolerated = {each["key"] for each in template["tolerations"]}
        assert ("nvidia.com/gpu" in tolerated) == (runtime == VLLM)


async def test_memory_that_is_not_published_any_more_binds_no_pod() -> None:
    made = await operate([H100])
    bare = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    await made.put({**node({}, bare), "metadata": {"name": "node-0", "labels": {}}})
    made.cluster.objects[ObjectKey("Node", "default", "node-0")] = {
        **node({}, bare),
        "metadata": {**made.cluster.objects[ObjectKey("Node", "default", "node-0")]["metadata"], "labels": {}},
    }
    await made.put(service(parallel=5))
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    template = made.cluster.objects[ObjectKey("Deployment", "default", "s")]["spec"]["template"]["spec"]
    assert template["affinity"] == {}


def refuse_engine(made: Operated) -> None:
    """Let the scheduler say that no node takes the engine."""
    template = made.cluster.objects[ObjectKey("Deployment", "default", "s")]["spec"]["template"]
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available."}
    made.cluster.objects[ObjectKey("Pod", "default", "s-0")] = {
        "kind": "Pod",
        "metadata": {"name": "s-0", "namespace": "default", "uid": "p", **template["metadata"]},
        "spec": template["spec"],
        "status": {"phase": "Pending", "conditions": [told]},
    }


async def test_a_service_that_fits_nowhere_looks_again() -> None:
    made = await operate([T4], runtime="vllm")
    del made.cluster.objects[ObjectKey("Node", "default", "node-0")]
    await made.put({**H100, "metadata": {**H100["metadata"], "name": "new"}})
    await made.settle(succeed_as("Qwen/Qwen3-8B"))
    assert container(made)["command"][0] == "vllm"


async def test_of_a_gpu_that_pods_share_an_engine_takes_its_part() -> None:
    made = await operate([SHARED], "Qwen/Qwen3-0.6B", parallel=8)
    found = status(made)["accelerator"]
    assert (found["resource"], found["count"], found["sharedBy"]) == ("nvidia.com/gpu", 1, 4)
    assert found["message"].endswith("of 5.62 GiB, its part of a GPU that 4 share.")
    command = container(made)["command"]
    assert command[command.index("--gpu-memory-utilization") + 1] == "0.225"
    deployment = made.cluster.objects[ObjectKey("Deployment", "default", "s")]
    affinity = deployment["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    ((term,),) = (
        each["matchExpressions"]
        for each in affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    )
    assert (term["key"], term["operator"]) == ("nvidia.com/gpu.memory", "Gt")
    assert int(term["values"][0]) == -(-4 * found["memoryBytes"] // 2**20) - 1, "the label tells of the whole GPU"


async def test_what_fits_a_whole_gpu_but_no_part_of_one_says_so() -> None:
    made = await operate([SHARED], accelerator="gpu", runtime="vllm")
    ready = next(each for each in status(made)["conditions"] if each["type"] == "Ready")
    assert ready["reason"] == "DoesNotFit"
    assert "5.62 GiB" in ready["message"]
