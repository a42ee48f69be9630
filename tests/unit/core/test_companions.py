"""A draft model beside what is served: waited for, converted, checked, remembered, part of what rolls and fits."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from slm_contract.results import Outcome
from slm_operator.core.fit import check_fit
from slm_operator.core.fit_demand import Demand, Draft, device_bytes, node_bytes, splits
from slm_operator.core.inventory import Inventory
from slm_operator.core.manifests.metadata import LABEL_STEP
from slm_operator.core.plan import ObjectKey
from slm_operator.core.roots import KEEPING_KINDS, find_roots
from slm_operator.core.sizes import gguf_bytes, serving_bytes
from tests.support.memory_cluster import Operated
from tests.support.planning import MODEL, QUANT, QUANTIZED, QWEN3, digest, fail, manifest, succeed, succeed_as
from tests.unit.core.test_fit import T4, build_kind

DRAFT = manifest("SLMModel", "d", {"source": {"huggingFace": {"repo": "o/draft"}}})
SERVICE_KEY = ObjectKey("InferenceService", "default", "s")
DEPLOYMENT = ObjectKey("Deployment", "default", "s")
MISMATCH = "The draft model does not speak in the served model's tokens: it has 9 tokens. Name a smaller model."
FLAGS = ("--spec-type", "--spec-draft-model", "--spec-draft-n-max")


def service(**spec: Any) -> dict[str, Any]:
    speculative = {"draftModelRef": {"name": "d"}}
    return manifest("InferenceService", "s", {"modelRef": {"name": "m"}, "speculative": speculative, **spec})


async def operate(*manifests: dict[str, Any], **answers: Outcome | None) -> Operated:
    """What comes of the manifests, with other answers of some steps."""
    made = Operated()
    await made.put(*manifests)
    await made.settle(lambda label: answers.get(label.replace("-", "_"), succeed(label)))
    return made


def options(made: Operated) -> dict[str, str]:
    """The engine's options that are about a draft model."""
    (engine,) = made.cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    words = engine["command"]
    return {flag: words[words.index(flag) + 1] for flag in FLAGS if flag in words}


def steps(made: Operated) -> set[str]:
    """Labels of the service's Jobs."""
    jobs = [item["metadata"] for key, item in made.cluster.objects.items() if key.kind == "Job"]
    return {meta["labels"][LABEL_STEP] for meta in jobs if meta["ownerReferences"][0]["name"] == "s"}


def blob(made: Operated, text: str) -> str:
    return f"{made.placement.store}/blobs/sha256/{digest(text).removeprefix('sha256:')}"


@pytest.mark.parametrize("source", [{"modelRef": {"name": "m"}}, {"modelRef": None, "quantJobRef": {"name": "q"}}])
async def test_the_engine_gets_a_draft_model_that_was_converted_and_compared(source: dict[str, Any]) -> None:
    spec = {name: value for name, value in {**service()["spec"], **source}.items() if value}
    made = await operate(MODEL, QUANT, DRAFT, manifest("InferenceService", "s", spec))
    assert options(made) == {
        "--spec-type": "draft-simple",
        "--spec-draft-model": blob(made, "b-draft"),
        "--spec-draft-n-max": "3",
    }
    (known,) = made.cluster.objects[SERVICE_KEY]["status"]["companions"]
    assert (known["role"], known["digest"], known["sizeBytes"]) == ("draft", digest("b-draft"), 4000)


async def test_a_draft_model_that_is_not_there_is_waited_for_and_named() -> None:
    made = await operate(MODEL, service())
    message = "SLMModel d does not exist in this namespace; apply it and this object goes on by itself."
    assert made.told("InferenceService", "s") == ("ModelNotFound", message)
    await made.put(DRAFT)
    await made.settle(lambda label: None if label == "acquire" else succeed(label))
    assert made.told("InferenceService", "s") == ("ModelNotReady", "SLMModel d is not Ready: Acquiring")
    await made.settle(succeed)
    assert DEPLOYMENT in made.cluster.objects


async def test_a_draft_model_that_only_vllm_loads_stalls_the_service_before_anything_is_converted() -> None:
    made = await operate(MODEL)
    await made.put(DRAFT, service())
    await made.settle(succeed_as("Qwen/Qwen3-8B-AWQ"))
    message = f"SLMModel d cannot be loaded beside another, as no GGUF can be made of it. {QUANTIZED}"
    assert made.told("InferenceService", "s") == ("NotConvertible", message)
    assert made.condition("InferenceService", "s", "Stalled")["status"] == "True"
    assert steps(made) == set()


async def test_while_the_vocabularies_are_compared_no_engine_is_there() -> None:
    made = await operate(MODEL, DRAFT, service(), vocabulary=None)
    (job,) = made.running_jobs()
    assert made.cluster.objects[job]["metadata"]["labels"][LABEL_STEP] == "vocabulary"
    assert made.condition("InferenceService", "s")["reason"] == "Comparing"
    assert DEPLOYMENT not in made.cluster.objects


async def test_other_tokens_stall_the_service_in_the_steps_words_and_start_no_engine() -> None:
    made = await operate(MODEL, DRAFT, service(), vocabulary=fail("VocabularyMismatch", MISMATCH))
    assert made.told("InferenceService", "s") == ("VocabularyMismatch", MISMATCH)
    assert made.condition("InferenceService", "s", "Stalled")["status"] == "True"
    assert DEPLOYMENT not in made.cluster.objects


async def test_engines_go_on_as_they_are_while_another_draft_model_does_not_fit() -> None:
    made = await operate(MODEL, DRAFT, service())
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    other = copy.deepcopy(DRAFT)
    other["metadata"]["name"] = "e"
    await made.put(other, service(speculative={"draftModelRef": {"name": "e"}}))
    refused = fail("VocabularyMismatch", MISMATCH)
    await made.settle(lambda label: _as_other(refused if label == "vocabulary" else succeed(label)))
    assert made.told("InferenceService", "s") == ("VocabularyMismatch", MISMATCH)
    assert made.cluster.objects[DEPLOYMENT]["spec"] == before


def _as_other(outcome: Outcome) -> Outcome:
    """The answers about another model: other digests."""
    if outcome.result is None:
        return outcome
    given = outcome.result.model_dump()
    changes: dict[str, Any] = {name: digest(f"other-{name}") for name in ("manifest", "blob") if name in given}
    return outcome.model_copy(update={"result": outcome.result.model_copy(update=changes)})


async def test_another_draft_model_rolls_the_engines_and_none_takes_it_away() -> None:
    made = await operate(MODEL, DRAFT, service())
    other = copy.deepcopy(DRAFT)
    other["metadata"]["name"] = "e"
    await made.put(other, service(speculative={"draftModelRef": {"name": "e"}, "maxDraftTokens": 8}))
    await made.settle(lambda label: _as_other(succeed(label)))
    assert options(made)["--spec-draft-model"] == blob(made, "other-blob")
    assert options(made)["--spec-draft-n-max"] == "8"
    await made.put(manifest("InferenceService", "s", {"modelRef": {"name": "m"}}))
    await made.settle(succeed)
    assert options(made) == {}
    assert made.cluster.objects[SERVICE_KEY]["status"].get("companions", []) == []


async def test_what_is_done_outlives_its_jobs_and_is_kept_in_the_store() -> None:
    made = await operate(MODEL, DRAFT, service())
    assert steps(made) == {"convert", "convert-draft", "vocabulary"}
    for key in [key for key in made.cluster.objects if key.kind in ("Job", "Pod")]:
        await made.cluster.delete(key)
    made.cluster.writes.clear()
    await made.settle(succeed)
    assert made.cluster.writes == []
    del made.cluster.objects[DEPLOYMENT]
    kept = [item for key, item in made.cluster.objects.items() if key.kind in KEEPING_KINDS]
    assert digest("b-draft") in find_roots(kept)


async def test_another_store_has_it_made_anew() -> None:
    made = await operate(MODEL, DRAFT, service())
    for key in [key for key in made.cluster.objects if key.kind in ("Job", "Pod")]:
        await made.cluster.delete(key)
    made.cluster.objects[SERVICE_KEY]["status"]["companions"][0]["storeUid"] = "earlier"
    await made.settle(succeed)
    assert steps(made) == {"convert-draft", "vocabulary"}


async def test_auto_takes_llama_cpp_and_says_why() -> None:
    made = await operate(MODEL, DRAFT, service(parallel=16))
    status = made.cluster.objects[SERVICE_KEY]["status"]
    assert (status["runtime"], status["runtimeMessage"]) == (
        "llama.cpp",
        "llama.cpp: spec.speculative goes with it where spec.runtime is auto.",
    )


async def test_vllm_gets_a_draft_models_own_files_once_they_were_compared() -> None:
    spec = {"runtime": "vllm", "accelerator": "nvidia.com/gpu", "tensorParallelSize": 2}
    made = await operate(MODEL)
    await made.put(DRAFT, service(**spec))
    await made.settle(lambda label: _as_other(succeed(label)))
    (engine,) = made.cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    words = engine["command"]
    told = json.loads(words[words.index("--speculative-config") + 1])
    folder = f"{made.placement.store}/snapshots/sha256/{digest('other-manifest').removeprefix('sha256:')}"
    assert told == {
        "method": "draft_model",
        "model": folder,
        "num_speculative_tokens": 3,
        "draft_tensor_parallel_size": 2,
    }
    assert json.loads(words[words.index("--override-generation-config") + 1]) == {"min_p": 0.0}
    assert steps(made) == {"snapshot"}
    (known,) = made.cluster.objects[SERVICE_KEY]["status"]["companions"]
    assert (known["role"], known["digest"]) == ("draft", digest("other-manifest"))


def test_vllm_splits_over_no_more_gpus_than_the_draft_model_can_be_split_by() -> None:
    qwen = QWEN3["Qwen/Qwen3-0.6B"]
    served = qwen.model_copy(update={"heads": 40, "kv_heads": 8, "intermediate_size": 27648})
    small = qwen.model_copy(update={"heads": 28, "kv_heads": 4, "intermediate_size": 18944})
    demand = Demand(served, 1000, 4096, 4, engine="vllm")
    assert splits(demand, 8) == [1, 2, 4, 8]
    assert splits(replace(demand, draft=Draft(small, 100, 3)), 8) == [1, 2, 4]


async def test_the_pod_asks_for_the_memory_of_both_models() -> None:
    def request(made: Operated) -> int:
        (engine,) = made.cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
        return int(engine["resources"]["requests"]["memory"].removesuffix("Mi"))

    alone = await operate(MODEL, manifest("InferenceService", "s", {"modelRef": {"name": "m"}, "parallel": 64}))
    both = await operate(MODEL, DRAFT, service(parallel=64))
    plain = alone.cluster.objects[SERVICE_KEY]["status"]["memoryBytes"]
    logits = 4 * 64 * 3 * 1024
    # In this world the draft model is as large as the one that is served.
    assert both.cluster.objects[SERVICE_KEY]["status"]["memoryBytes"] == 2 * plain + logits
    assert request(both) - request(alone) == pytest.approx((plain + logits) / 2**20, abs=1)


async def test_a_projector_is_loaded_beside_a_draft_model() -> None:
    projector = manifest("SLMModel", "p", {"source": {"huggingFace": {"repo": "o/projector"}}})
    made = await operate(MODEL, DRAFT, projector, service(projectorRef={"name": "p"}))
    (engine,) = made.cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    words = engine["command"]
    assert words[words.index("--mmproj") + 1] == blob(made, "b-projector")
    assert words[words.index("--spec-draft-model") + 1] == blob(made, "b-draft")
    assert [each["role"] for each in made.cluster.objects[SERVICE_KEY]["status"]["companions"]] == [
        "draft",
        "projector",
    ]


async def test_a_file_that_is_no_projector_of_the_model_starts_no_engine() -> None:
    spec = {"modelRef": {"name": "m"}, "projectorRef": {"name": "d"}}
    refused = fail("ProjectorMismatch", "It makes embeddings of 9 elements.")
    made = await operate(MODEL, DRAFT, manifest("InferenceService", "s", spec), projector=refused)
    assert made.told("InferenceService", "s") == ("ProjectorMismatch", "It makes embeddings of 9 elements.")
    assert DEPLOYMENT not in made.cluster.objects
    made = await operate(MODEL, DRAFT, manifest("InferenceService", "s", spec))
    message = made.cluster.objects[SERVICE_KEY]["status"]["runtimeMessage"]
    assert message == "llama.cpp: spec.projectorRef goes with it where spec.runtime is auto."


BIG, SMALL = QWEN3["Qwen/Qwen3-8B"], QWEN3["Qwen/Qwen3-0.6B"]
BIG_BYTES, SMALL_BYTES = gguf_bytes(BIG, "Q8_0"), gguf_bytes(SMALL, "Q8_0")
ALONE = Demand(BIG, BIG_BYTES, 8192, 4)
DRAFTED = replace(ALONE, draft=Draft(SMALL, SMALL_BYTES, 4))


def test_a_draft_model_takes_weights_and_a_cache_for_the_same_slots_and_logits_for_what_it_proposes() -> None:
    own = serving_bytes(SMALL, SMALL_BYTES, 8192, 4)
    more = own.total + 4 * 4 * 4 * BIG.vocab_size
    assert node_bytes(DRAFTED) - node_bytes(ALONE) == more
    assert device_bytes(DRAFTED, 1, T4) - device_bytes(ALONE, 1, T4) == more
    assert "(weights with a draft model 8.7" in DRAFTED.describe()


def test_of_a_draft_model_without_a_shape_half_of_the_weights_stands_for_its_cache() -> None:
    demand = replace(ALONE, draft=Draft(None, 1000, 4))
    assert node_bytes(demand) - node_bytes(ALONE) == 1500 + 4 * 4 * 4 * BIG.vocab_size


def test_a_projector_takes_its_size_and_half_of_it_for_buffers() -> None:
    demand = replace(DRAFTED, projector_bytes=1000)
    assert node_bytes(demand) - node_bytes(DRAFTED) == 1500
    assert demand.loaded_bytes == BIG_BYTES + SMALL_BYTES + 1000
    assert "(weights with a draft model and a projector 8.7" in demand.describe()


def test_where_both_do_not_fit_but_one_does_it_is_said() -> None:
    room = (node_bytes(ALONE) + 2**28) / 2**30
    verdict = check_fit(DRAFTED, Inventory((build_kind("n", room),)))
    assert "no spec.speculative" in verdict.advice
