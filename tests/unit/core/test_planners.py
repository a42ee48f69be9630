"""The planners as tables: what is observed, what is decided, in which words."""

import copy
from itertools import pairwise
from typing import Any

import pytest

from slm_contract.results import Outcome
from slm_operator.core.manifests.metadata import LABEL_STEP
from slm_operator.core.plan import ObjectKey
from tests.support.planning import MODEL, NOW, QUANT, SERVICE, World, digest, fail, manifest, succeed

MODEL_KEY = ObjectKey("SLMModel", "default", "m")
QUANT_KEY = ObjectKey("QuantJob", "default", "q")
SERVICE_KEY = ObjectKey("InferenceService", "default", "s")


def world(*manifests: dict[str, Any]) -> World:
    made = World()
    for item in manifests:
        made.put(item)
    return made


def make_deployment_ready(made: World) -> None:
    made.objects[ObjectKey("Deployment", "default", "s")]["status"] = {
        "observedGeneration": 1,
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": 1,
    }
    ingress = [{"ip": "127.0.0.1", "ports": [{"port": 4321}]}]
    made.objects[ObjectKey("Service", "default", "s")]["status"] = {"loadBalancer": {"ingress": ingress}}


def test_a_model_goes_from_resolve_to_acquire_to_ready_and_tells_the_forecast_before_it_fetches() -> None:
    made = world(MODEL)
    made.settle(lambda label: succeed(label) if label == "resolve" else None)
    status = made.objects[MODEL_KEY]["status"]
    assert made.condition(MODEL_KEY)["reason"] == "Acquiring"
    assert {row["type"] for row in status["forecast"]} >= {"Q4_0", "Q5_1", "Q8_0", "Q4_K_M"}
    assert status["digest"] == ""
    made.settle(succeed)
    status = made.objects[MODEL_KEY]["status"]
    assert made.condition(MODEL_KEY)["status"] == "True"
    assert (status["digest"], status["parameterClass"], status["revision"]) == (digest("model"), "Small", "a" * 40)


def test_everything_applied_at_once_in_the_wrong_order_ends_ready() -> None:
    made = world(SERVICE, QUANT, MODEL)
    made.settle(succeed)
    make_deployment_ready(made)
    made.settle(succeed)
    assert [made.condition(key)["status"] for key in (MODEL_KEY, QUANT_KEY, SERVICE_KEY)] == ["True"] * 3
    assert made.condition(SERVICE_KEY)["message"] == "1 of 1 engines answer at http://127.0.0.1:4321/v1."
    assert made.objects[QUANT_KEY]["status"]["selected"] == "Q4_0"
    assert made.objects[SERVICE_KEY]["status"]["digest"] == digest("bQ4_0")


def test_a_settled_world_is_never_written_again() -> None:
    made = world(MODEL, QUANT, SERVICE)
    made.settle(succeed)
    before = made.writes
    made.settle(succeed)
    assert made.writes == before


@pytest.mark.parametrize(
    ("objects", "key", "state", "reason", "message"),
    [
        ((QUANT,), QUANT_KEY, "Reconciling", "ModelNotFound", "SLMModel m does not exist in this namespace; apply it"),
        ((SERVICE,), SERVICE_KEY, "Reconciling", "QuantJobNotFound", "QuantJob q does not exist in this namespace"),
        (
            (SERVICE, QUANT),
            SERVICE_KEY,
            "Reconciling",
            "QuantJobNotReady",
            "QuantJob q has not finished: ModelNotFound",
        ),
    ],
)
def test_a_missing_reference_is_a_condition_and_not_an_error(
    objects: tuple[dict[str, Any], ...], key: ObjectKey, state: str, reason: str, message: str
) -> None:
    made = world(*objects)
    made.settle(succeed)
    assert made.condition(key, state)["status"] == "True"
    assert made.condition(key)["reason"] == reason
    assert message in made.condition(key)["message"]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("a LoRA adapter, which changes a model", {"format": "lora", "architecture": "LORA"}),
        ("a multimodal projector, which is loaded beside a model", {"format": "gguf", "architecture": "clip"}),
    ],
)
def test_an_adapter_or_a_projector_is_no_model_to_serve_or_to_quantize(kind: str, changes: dict[str, str]) -> None:
    def resolve_other(label: str) -> Outcome:
        outcome = succeed(label)
        if label != "resolve" or outcome.result is None:
            return outcome
        return outcome.model_copy(update={"result": outcome.result.model_copy(update={**changes, "shape": None})})

    service = copy.deepcopy(SERVICE)
    service["spec"] = {"modelRef": {"name": "m"}}
    made = world(MODEL, QUANT, service)
    made.settle(resolve_other)
    assert made.condition(MODEL_KEY)["reason"] == "Ready"
    message = f"SLMModel m is {kind} and is none by itself: name a model instead."
    for key in (QUANT_KEY, SERVICE_KEY):
        assert made.condition(key, "Stalled")["status"] == "True"
        assert (made.condition(key)["reason"], made.condition(key)["message"]) == ("FormatMismatch", message)


def test_a_bad_input_stalls_with_the_steps_own_reason_and_starts_nothing_more() -> None:
    made = world(MODEL, QUANT)
    made.settle(lambda label: fail("UnsafeFormat", "only pickles") if label == "resolve" else succeed(label))
    assert made.condition(MODEL_KEY, "Stalled") | {"observedGeneration": 1} == made.condition(MODEL_KEY, "Stalled")
    assert (made.condition(MODEL_KEY)["reason"], made.condition(MODEL_KEY)["message"]) == (
        "UnsafeFormat",
        "only pickles",
    )
    assert made.condition(QUANT_KEY)["reason"] == "ModelNotReady"
    assert [event.reason for event in made.events if event.about == MODEL_KEY] == ["Resolving", "UnsafeFormat"]


def test_a_variant_outside_the_gate_is_not_selected_and_says_by_how_much() -> None:
    quant = copy.deepcopy(QUANT)
    quant["spec"]["gate"] = {"maxKLDivergence": 0.001, "minTopOneAgreement": 0.99, "maxPerplexityIncrease": 0.1}
    made = world(MODEL, quant, SERVICE)
    made.settle(succeed)
    assert made.condition(QUANT_KEY)["reason"] == "NoVariantPassed"
    row = made.objects[QUANT_KEY]["status"]["variants"][0]
    assert row["message"] == "KL divergence 0.01 is above 0.001; top-one agreement 0.98 is below 0.99"
    assert made.condition(SERVICE_KEY)["reason"] == "VariantNotAvailable"
    assert not [key for key in made.objects if key.kind == "Deployment"]


def test_suspend_starts_nothing_and_resuming_goes_on() -> None:
    suspended = copy.deepcopy(MODEL)
    suspended["spec"]["suspend"] = True
    made = world(suspended)
    made.settle(succeed)
    assert made.condition(MODEL_KEY)["reason"] == "Suspended"
    assert not [key for key in made.objects if key.kind == "Job"]
    made.put(MODEL)
    made.settle(succeed)
    assert made.condition(MODEL_KEY)["status"] == "True"


def test_a_deployment_of_the_same_name_that_is_not_ours_is_left_alone() -> None:
    made = world(MODEL, QUANT, SERVICE)
    foreign = {"kind": "Deployment", "metadata": {"name": "s", "namespace": "default"}, "spec": {"replicas": 7}}
    made.objects[ObjectKey("Deployment", "default", "s")] = copy.deepcopy(foreign)
    made.settle(succeed)
    assert made.condition(SERVICE_KEY)["reason"] == "NameConflict"
    assert "Deployment/default/s exists and belongs to somebody else" in made.condition(SERVICE_KEY)["message"]
    assert made.objects[ObjectKey("Deployment", "default", "s")] == foreign


def test_an_engine_that_keeps_crashing_is_named_with_its_exit_code() -> None:
    made = world(MODEL, QUANT, SERVICE)
    made.settle(succeed)
    last = {"terminated": {"exitCode": 1, "message": "no such device"}}
    made.report_engine({"restartCount": 3, "lastState": last})
    made.settle(succeed)
    assert made.condition(SERVICE_KEY)["reason"] == "EngineCrashed"
    assert made.condition(SERVICE_KEY)["message"] == "The engine ended 3 times, last with exit code 1: no such device"


def test_a_service_whose_reference_is_gone_can_still_be_stopped() -> None:
    made = world(MODEL, QUANT, SERVICE)
    made.settle(succeed)
    made.remove("QuantJob", "q")
    made.settle(succeed)
    assert ObjectKey("Deployment", "default", "s") in made.objects
    made.put(manifest("InferenceService", "s", {**SERVICE["spec"], "replicas": 0}))
    made.settle(succeed)
    assert ObjectKey("Deployment", "default", "s") not in made.objects
    assert made.condition(SERVICE_KEY)["reason"] == "QuantJobNotFound"


def test_the_engine_gets_threads_from_its_quota_and_context_for_every_slot() -> None:
    service = manifest(
        "InferenceService",
        "s",
        {"modelRef": {"name": "m"}, "parallel": 3, "contextSize": 100, "resources": {"limits": {"cpu": "1500m"}}},
    )
    made = world(MODEL, service)
    made.settle(succeed)
    template = made.objects[ObjectKey("Deployment", "default", "s")]["spec"]["template"]
    command = template["spec"]["containers"][0]["command"]
    flags = dict(pairwise(command))
    assert (flags["--threads"], flags["--ctx-size"], flags["--parallel"]) == ("1", "300", "3")
    assert template["metadata"]["labels"][LABEL_STEP] == "serve"


def test_a_fault_is_tried_anew_after_a_delay_and_a_bad_input_never() -> None:
    made = world(MODEL)
    made.settle(lambda _label: fail("SourceUnavailable", "the hub is away"))
    job = next(key for key in made.objects if key.kind == "Job")
    made.objects[job]["status"]["conditions"][0]["reason"] = "BackoffLimitExceeded"
    soon = made.plan(MODEL_KEY)
    assert soon.requeue_after_seconds == 300
    assert soon.delete == ()
    later = made.plan(MODEL_KEY, NOW.replace(minute=14))
    assert later.delete == (job,)


def test_a_changed_spec_ends_the_job_it_replaces_and_at_the_end_nothing_of_it_is_left() -> None:
    made = world(MODEL, QUANT)
    made.settle(lambda label: None if label.startswith("evaluate") else succeed(label))
    (old,) = [key for key, job in made.objects.items() if key.kind == "Job" and "status" not in job]
    made.put(manifest("QuantJob", "q", {**QUANT["spec"], "evaluation": {"chunks": 17}}))
    assert made.plan(QUANT_KEY).delete == (old,)
    made.settle(succeed)
    made.put(manifest("QuantJob", "q", {**QUANT["spec"], "evaluation": {"chunks": 18}}))
    made.settle(succeed)
    evaluations = [key.name for key in made.objects if key.kind == "Job" and "-evaluate-" in key.name]
    assert len(evaluations) == len(QUANT["spec"]["variants"]) + 1


def test_jobs_of_a_model_that_is_away_for_a_moment_go_on() -> None:
    made = world(MODEL, QUANT)
    made.settle(lambda label: None if label.startswith("evaluate") else succeed(label))
    model = made.objects.pop(MODEL_KEY)
    plan = made.plan(QUANT_KEY)
    assert (plan.delete, made.objects.setdefault(MODEL_KEY, model)) == ((), model)


def test_of_two_long_names_that_begin_alike_each_has_its_own_jobs() -> None:
    names = ["tinyllama-1.1b-intermediate-step-1431k-3t-q4-k-m", "tinyllama-1.1b-intermediate-step-1431k-3t-q8-0"]
    made = world(MODEL, *(manifest("QuantJob", name, QUANT["spec"]) for name in names))
    made.settle(succeed)
    assert [made.condition(ObjectKey("QuantJob", "default", name))["reason"] for name in names] == ["Succeeded"] * 2


def test_a_variant_that_cannot_be_made_says_why() -> None:
    made = world(MODEL, QUANT)
    made.settle(lambda label: fail("UnknownType", "no such type") if label == "quantize-Q4_0" else succeed(label))
    rows = made.objects[QUANT_KEY]["status"]["variants"]
    assert [(row["type"], row["reason"], row["message"]) for row in rows] == [
        ("Q8_0", "", ""),
        ("Q4_0", "UnknownType", "no such type"),
    ]


def test_a_step_killed_for_its_memory_says_what_to_raise() -> None:
    made = world(MODEL)
    made.settle(lambda _label: fail("SourceUnavailable", "x"))
    (pod,) = [item for key, item in made.objects.items() if key.kind == "Pod"]
    (job,) = [item for key, item in made.objects.items() if key.kind == "Job"]
    pod["status"]["containerStatuses"][0]["state"]["terminated"] = {"reason": "OOMKilled", "exitCode": 137}
    made.settle(succeed)
    name = job["metadata"]["name"]
    assert made.condition(MODEL_KEY)["reason"] == "OutOfMemory"
    assert made.condition(MODEL_KEY)["message"] == (
        f"The step {name} was killed for using more memory than its limit. Raise its resources.limits.memory."
    )
