"""LoRA adapters beside what is served: waited for, converted for its model, remembered, loaded in their order."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from slm_contract.adapters import PROJECTIONS
from slm_contract.results import ModelShape, Outcome
from slm_operator.core.fit import check_fit
from slm_operator.core.fit_demand import Adapters, Demand, device_bytes, node_bytes
from slm_operator.core.inventory import Inventory
from slm_operator.core.plan import ObjectKey
from slm_operator.core.roots import KEEPING_KINDS, find_roots
from tests.support.memory_cluster import Operated, adapter_digest, with_adapters
from tests.support.planning import MODEL, QUANT, QWEN3, digest, fail, manifest, succeed
from tests.unit.core.test_fit import T4, build_kind

ADAPTERS = [{"name": "french", "modelRef": {"name": "f"}}, {"name": "legal", "modelRef": {"name": "l"}}]
SERVICE_KEY, DEPLOYMENT = ObjectKey("InferenceService", "default", "s"), ObjectKey("Deployment", "default", "s")
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node", "labels": {"nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.count": "1"}},
    "spec": {},
    "status": {
        "allocatable": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "1"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
MISMATCH = "The adapter changes model.layers.9.mlp.up_proj.weight, which the model does not have: name the model."


def adapter(name: str) -> dict[str, Any]:
    return manifest("SLMModel", name, {"source": {"huggingFace": {"repo": f"o/lora-{name}"}}})


def service(**spec: Any) -> dict[str, Any]:
    return manifest("InferenceService", "s", {"modelRef": {"name": "m"}, "adapters": ADAPTERS, **spec})


SHAPE = QWEN3["Qwen/Qwen3-0.6B"]
KNOWN = Demand(SHAPE, 2**30, 4096, 4)


async def operate(*manifests: dict[str, Any], **answers: Outcome | None) -> Operated:
    """What comes of the model, and then of the other manifests."""
    made = Operated()
    await made.put(MODEL)
    await made.settle(succeed)
    await made.put(*manifests)
    await settle(made, **answers)
    return made


async def settle(made: Operated, **answers: Outcome | None) -> None:
    """With other answers of some steps."""
    await made.settle(with_adapters(made, lambda label: answers.get(label, succeed(label))))


def words(made: Operated) -> list[str]:
    (engine,) = made.cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    return list(engine["command"])


def loaded(made: Operated) -> str:
    """The argument that names the engine's adapters."""
    command = words(made)
    return command[command.index("--lora-scaled") + 1]


def blob(made: Operated, name: str) -> str:
    return f"{made.placement.store}/blobs/sha256/{digest(f'b-{name}').removeprefix('sha256:')}"


@pytest.mark.parametrize("source", [{"modelRef": {"name": "m"}}, {"modelRef": None, "quantJobRef": {"name": "q"}}])
async def test_the_engine_loads_adapters_and_applies_none_by_itself(source: dict[str, Any]) -> None:
    spec = {name: value for name, value in {**service()["spec"], **source}.items() if value}
    made = await operate(QUANT, adapter("f"), adapter("l"), manifest("InferenceService", "s", spec))
    assert loaded(made) == f"{blob(made, 'f')}:0,{blob(made, 'l')}:0"
    command = words(made)
    assert command[command.index("--cache-ram") + 1] == "0"
    template = made.cluster.objects[DEPLOYMENT]["spec"]["template"]
    assert template["metadata"]["annotations"]["slm.dev/adapters"] == "french,legal"
    known = made.cluster.objects[SERVICE_KEY]["status"]["companions"]
    assert [(each["role"], each["digest"]) for each in known] == [
        ("adapter/french", digest("b-f")),
        ("adapter/legal", digest("b-l")),
    ]


async def test_a_service_without_adapters_is_told_nothing_of_them() -> None:
    made = await operate(service(adapters=[]))
    assert not {"--lora-scaled", "--cache-ram"} & set(words(made))
    assert "slm.dev/adapters" not in made.cluster.objects[DEPLOYMENT]["spec"]["template"]["metadata"]["annotations"]


async def test_the_adapter_is_converted_for_the_model_that_a_variant_was_made_of() -> None:
    made = await operate(
        QUANT,
        adapter("f"),
        manifest("InferenceService", "s", {"quantJobRef": {"name": "q"}, "adapters": ADAPTERS[:1]}),
        adapt=None,
    )
    (job,) = made.running_jobs()
    (container,) = made.cluster.objects[job]["spec"]["template"]["spec"]["containers"]
    assert f'"adapter":"{adapter_digest("f")}","model":"{digest("model")}"' in str(container["env"])
    assert made.condition("InferenceService", "s")["reason"] == "Converting"
    assert DEPLOYMENT not in made.cluster.objects


@pytest.mark.parametrize("adapters", [[], ADAPTERS], ids=["without adapters", "with adapters"])
async def test_a_variant_is_served_on_while_its_model_is_fetched_anew(adapters: list[dict[str, Any]]) -> None:
    spec = {"quantJobRef": {"name": "q", "variant": "Q4_0"}, "adapters": adapters}
    made = await operate(QUANT, adapter("f"), adapter("l"), manifest("InferenceService", "s", spec))
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    other = copy.deepcopy(MODEL)
    other["spec"]["source"]["huggingFace"]["revision"] = "next"
    await made.put(other, manifest("InferenceService", "s", {**spec, "replicas": 2}))
    await settle(made, acquire=None)
    assert made.told("SLMModel", "m")[0] == "Acquiring"
    assert made.told("InferenceService", "s") == ("Starting", "Engines are starting: 0 of 2 answer.")
    assert made.cluster.objects[DEPLOYMENT]["spec"] == {**before, "replicas": 2}


@pytest.mark.parametrize("gone", ["m", "f"], ids=["its model", "an adapter"])
async def test_engines_go_on_as_they_are_without_what_they_were_made_of(gone: str) -> None:
    made = await operate(adapter("f"), adapter("l"), service())
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    await made.cluster.delete(ObjectKey("SLMModel", "default", gone))
    await settle(made)
    message = f"SLMModel {gone} does not exist in this namespace; apply it and this object goes on by itself."
    assert made.told("InferenceService", "s") == ("ModelNotFound", message)
    assert made.cluster.objects[DEPLOYMENT]["spec"] == before
    await made.put(MODEL if gone == "m" else adapter("f"))
    await settle(made)
    assert made.told("InferenceService", "s")[0] == "Starting"
    assert made.cluster.objects[DEPLOYMENT]["spec"] == before


async def test_an_adapter_that_is_not_there_is_waited_for_and_named() -> None:
    made = await operate(adapter("f"), service())
    message = "SLMModel l does not exist in this namespace; apply it and this object goes on by itself."
    assert made.told("InferenceService", "s") == ("ModelNotFound", message)
    await made.put(adapter("l"))
    await settle(made)
    assert DEPLOYMENT in made.cluster.objects


async def test_a_model_is_no_adapter() -> None:
    made = await operate(service(adapters=[{"name": "french", "modelRef": {"name": "m"}}]))
    message = "SLMModel m is a model and no LoRA adapter: spec.adapters names those whose status.format is lora."
    assert made.told("InferenceService", "s") == ("FormatMismatch", message)
    assert made.condition("InferenceService", "s", "Stalled")["status"] == "True"


async def test_engines_go_on_as_they_are_while_an_adapter_does_not_fit() -> None:
    made = await operate(service(adapters=[]))
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    await made.put(adapter("f"), service(adapters=ADAPTERS[:1]))
    await settle(made, adapt=fail("AdapterMismatch", MISMATCH))
    assert made.told("InferenceService", "s") == ("AdapterMismatch", MISMATCH)
    assert made.condition("InferenceService", "s", "Stalled")["status"] == "True"
    assert made.cluster.objects[DEPLOYMENT]["spec"] == before


async def test_another_order_rolls_the_engines_which_number_them() -> None:
    made = await operate(adapter("f"), adapter("l"), service())
    await made.put(service(adapters=ADAPTERS[::-1]))
    await settle(made)
    template = made.cluster.objects[DEPLOYMENT]["spec"]["template"]
    assert template["metadata"]["annotations"]["slm.dev/adapters"] == "legal,french"
    assert loaded(made) == f"{blob(made, 'l')}:0,{blob(made, 'f')}:0"


async def test_another_order_of_adapters_chooses_no_engine_anew() -> None:
    made = await operate(adapter("f"), adapter("l"), service())
    made.cluster.objects[ObjectKey("SLMModel", "default", "l")]["status"]["digest"] = digest("another")
    chosen = []
    for adapters in (ADAPTERS, ADAPTERS[::-1]):
        await made.put(service(adapters=adapters, parallel=5))
        await settle(made)
        chosen.append(made.cluster.objects[SERVICE_KEY]["status"]["choiceDigest"])
    assert chosen[0] == chosen[1]


async def test_what_is_done_outlives_its_jobs_and_is_kept_in_the_store() -> None:
    made = await operate(adapter("f"), adapter("l"), service())
    for key in [key for key in made.cluster.objects if key.kind in ("Job", "Pod")]:
        await made.cluster.delete(key)
    made.cluster.writes.clear()
    await settle(made)
    assert made.cluster.writes == []
    del made.cluster.objects[DEPLOYMENT]
    kept = [item for key, item in made.cluster.objects.items() if key.kind in KEEPING_KINDS]
    assert {digest("b-f"), digest("b-l")} <= {*find_roots(kept)}


async def test_vllm_gets_an_adapters_own_files_once_they_were_held_against_the_model() -> None:
    made = Operated()
    await made.put(MODEL, NODE)
    await made.settle(succeed)
    await made.put(adapter("f"), adapter("l"), service(parallel=16))
    await settle(made, snapshot=succeed("snapshot"))
    command, folder = words(made), f"{made.placement.store}/snapshots/sha256"
    modules = [
        {"name": f"s:{name}", "path": f"{folder}/{adapter_digest(model).removeprefix('sha256:')}"}
        for name, model in (("french", "f"), ("legal", "l"))
    ]
    # An option follows the list of modules, so that nothing of spec.extraArgs becomes one.
    assert command[command.index("--lora-modules") :] == [
        *("--lora-modules", *map(json.dumps, modules)),
        *("--enable-lora", "--lora-target-modules", *PROJECTIONS),
        *("--max-loras", "2", "--max-cpu-loras", "2", "--max-lora-rank", "16"),
    ]
    annotations = made.cluster.objects[DEPLOYMENT]["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["slm.dev/adapters"], annotations["slm.dev/adapters-by-name"]) == ("french,legal", "true")
    status = made.cluster.objects[SERVICE_KEY]["status"]
    assert [each["digest"] for each in status["companions"]] == [adapter_digest("f"), adapter_digest("l")]
    kept = [item for key, item in made.cluster.objects.items() if key.kind in KEEPING_KINDS]
    assert {adapter_digest("f"), adapter_digest("l")} <= {*find_roots(kept)}


async def test_vllm_gets_no_adapter_whose_rank_is_not_known() -> None:
    made = Operated()
    await made.put(MODEL, NODE, adapter("f"))
    await made.settle(succeed)
    await made.put(service(parallel=16, adapters=[]))
    await made.settle(succeed)
    of_before = made.cluster.objects[ObjectKey("SLMModel", "default", "f")]["status"]
    of_before |= {"format": "lora", "shape": None}
    await made.put(service(parallel=16, adapters=ADAPTERS[:1]))
    await made.settle(succeed)
    message = "The rank of SLMModel f is not known: delete and apply it again, which fetches nothing anew."
    assert made.told("InferenceService", "s") == ("ModelNotReady", message)
    assert "--lora-modules" not in words(made)


async def test_engines_of_vllm_go_on_as_they_are_while_an_adapter_does_not_fit() -> None:
    made = Operated()
    await made.put(MODEL, NODE)
    await made.settle(succeed)
    await made.put(service(parallel=16, adapters=[]))
    await made.settle(succeed)
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    await made.put(adapter("f"), service(parallel=16, adapters=ADAPTERS[:1]))
    await settle(made, snapshot=fail("AdapterMismatch", MISMATCH))
    assert made.told("InferenceService", "s") == ("AdapterMismatch", MISMATCH)
    assert made.cluster.objects[DEPLOYMENT]["spec"] == before


async def test_the_forecast_counts_every_adapter() -> None:
    alone = await operate(service(adapters=[]))
    both = await operate(adapter("f"), adapter("l"), service())
    plain = alone.cluster.objects[SERVICE_KEY]["status"]["memoryBytes"]
    assert both.cluster.objects[SERVICE_KEY]["status"]["memoryBytes"] == plain + 2 * 300


def test_a_node_needs_memory_for_adapters_whether_or_not_the_models_shape_is_known() -> None:
    demand = Demand(None, 1000, 4096, 4)
    assert node_bytes(replace(demand, adapters=Adapters(1, 8, 100))) - node_bytes(demand) == 150
    assert node_bytes(replace(KNOWN, adapters=Adapters(1, 8, 2**20))) - node_bytes(KNOWN) == 2**20
    by_vllm = replace(KNOWN, engine="vllm")
    more = node_bytes(replace(by_vllm, adapters=Adapters(1, 8, 2**20))) - node_bytes(by_vllm)
    assert more == 2**20 + 2 * 8 * lora_elements(SHAPE, 1)
    assert "(weights with adapters 1.00 GiB" in replace(KNOWN, adapters=Adapters(1, 8, 2**20)).describe()


def lora_elements(shape: ModelShape, devices: int) -> int:
    """Elements of A and B of rank 1 on one device, projection by projection."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size // devices
    queries, keys = (max(1, heads // devices) * shape.head_dim for heads in (shape.heads, shape.kv_heads))
    rows = [hidden + rows for rows in (queries, keys, keys, ffn, ffn)]
    columns = [columns + hidden for columns in (queries, ffn)]
    return shape.layers * sum(rows + columns)


@pytest.mark.parametrize("devices", [1, 4, 16])
@pytest.mark.parametrize(
    ("adapters", "rank", "together"),
    [(Adapters(2, 12, 300), 16, 2), (Adapters(16, 64, 300), 64, 4), (Adapters(1, 257, 300), 320, 1)],
    ids=["room for a higher rank", "as many as there are slots", "an odd rank"],
)
def test_vllm_has_buffers_for_every_projection_whatever_the_adapters_change(
    adapters: Adapters, rank: int, together: int, devices: int
) -> None:
    demand = replace(KNOWN, engine="vllm")
    more = device_bytes(replace(demand, adapters=adapters), devices, T4) - device_bytes(demand, devices, T4)
    assert more == pytest.approx(2 * together * rank * lora_elements(SHAPE, devices) / 0.9, abs=2)


def test_adapters_for_which_vllm_has_no_memory_do_not_fit_and_it_is_said() -> None:
    demand = replace(KNOWN, engine="vllm", slots=16)
    node = Inventory((build_kind("n", 64, T4),))
    assert check_fit(demand, node, accelerator="gpu").fits
    verdict = check_fit(replace(demand, adapters=Adapters(16, 512, 2**20)), node, accelerator="gpu")
    assert not verdict.fits
    assert "no spec.adapters" in verdict.advice
