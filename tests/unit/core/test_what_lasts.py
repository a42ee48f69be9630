"""What was made outlives the Jobs that made it, and the model that it was made of."""

import copy

from slm_operator.core.plan import ObjectKey
from tests.support.memory_cluster import Operated
from tests.support.planning import MODEL, QUANT, digest, manifest, succeed, succeed_as

MODEL_KEY = ObjectKey("SLMModel", "default", "m")
SERVICE_KEY = ObjectKey("InferenceService", "default", "s")
DEPLOYMENT = ObjectKey("Deployment", "default", "s")


async def test_an_unquantized_service_keeps_its_file_when_the_conversion_is_gone() -> None:
    made = Operated()
    await made.put(MODEL, manifest("InferenceService", "s", {"modelRef": {"name": "m"}}))
    await made.settle(succeed)
    assert [key.name for key in made.cluster.objects if key.kind == "Job" and key.name.startswith("s-convert-")]
    for key in [key for key in made.cluster.objects if key.kind in ("Job", "Pod")]:
        del made.cluster.objects[key]
    assert await made.look() == 0
    assert made.cluster.objects[SERVICE_KEY]["status"]["digest"] == digest("b-base")


async def test_an_unquantized_service_without_an_engine_keeps_its_file_while_its_model_is_gone() -> None:
    made = Operated()
    await made.put(MODEL, manifest("InferenceService", "s", {"modelRef": {"name": "m"}}))
    await made.settle(succeed)
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    await made.cluster.delete(MODEL_KEY)
    await made.settle(succeed)
    assert made.told("InferenceService", "s")[0] == "ModelNotFound"
    assert made.cluster.objects[SERVICE_KEY]["status"]["digest"] == digest("b-base")
    await made.put(MODEL)
    await made.settle(succeed)
    assert made.told("InferenceService", "s")[0] == "Starting"
    assert made.cluster.objects[DEPLOYMENT]["spec"] == before


async def test_engines_of_a_variant_stay_as_they_are_when_its_model_is_deleted() -> None:
    made, answer = Operated(), succeed_as("Qwen/Qwen3-0.6B")
    spec = {"quantJobRef": {"name": "q", "variant": "Q4_0"}, "contextSize": 1048576}
    await made.put(MODEL, QUANT, manifest("InferenceService", "s", spec))
    await made.settle(answer)
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"])
    assert made.cluster.objects[SERVICE_KEY]["status"]["contextSize"] < 1048576
    await made.cluster.delete(MODEL_KEY)
    await made.put(manifest("InferenceService", "s", {**spec, "replicas": 2}))
    await made.settle(answer)
    assert made.cluster.objects[DEPLOYMENT]["spec"] == {**before, "replicas": 2}


async def test_what_was_asked_for_anew_is_done_anew_and_suspending_asks_for_nothing() -> None:
    made = Operated()
    await made.put(MODEL, QUANT)
    await made.settle(succeed)
    for key in [key for key in made.cluster.objects if key.kind in ("Job", "Pod")]:
        del made.cluster.objects[key]
    await made.put(manifest("QuantJob", "q", {**QUANT["spec"], "suspend": True, "nodeSelector": {"a": "b"}}))
    await made.settle(succeed)
    assert made.told("QuantJob", "q")[0] == "Succeeded"
    assert made.condition("QuantJob", "q")["observedGeneration"] == 2
    await made.put(manifest("QuantJob", "q", {**QUANT["spec"], "suspend": True, "variants": ["Q8_0"]}))
    await made.settle(succeed)
    assert made.told("QuantJob", "q") == (
        "Suspended",
        "Suspended before convert: set spec.suspend to false to go on.",
    )
