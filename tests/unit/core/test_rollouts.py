"""What an InferenceService says while its engines change: never that the new is there while the old answers."""

from typing import Any

import pytest

from slm_operator.core.manifests.metadata import LABEL_KIND, LABEL_NAME, LABEL_STEP
from slm_operator.core.plan import ObjectKey
from tests.support.planning import MODEL, QUANT, SERVICE, World, digest, manifest, succeed

KEY = ObjectKey("InferenceService", "default", "s")
DEPLOYMENT = ObjectKey("Deployment", "default", "s")
ADDRESS = ObjectKey("Service", "default", "s")
URL = "http://127.0.0.1:4321"


def serving(spec: dict[str, Any] | None = None) -> World:
    """A world whose service is Ready."""
    made = World()
    for item in (MODEL, QUANT, manifest("InferenceService", "s", spec or SERVICE["spec"])):
        made.put(item)
    made.settle(succeed)
    roll_out(made)
    made.settle(succeed)
    assert made.condition(KEY)["status"] == "True"
    return made


def roll_out(made: World, *, ready: int | None = None) -> None:
    """Let the Deployment's controller finish, with an engine pod of the present template."""
    deployment = made.objects[DEPLOYMENT]
    count = deployment["spec"]["replicas"]
    done = {"replicas": count, "updatedReplicas": count, "readyReplicas": count if ready is None else ready}
    deployment["status"] = {"observedGeneration": deployment["metadata"]["generation"], **done}
    ingress = [{"ip": "127.0.0.1", "ports": [{"port": 4321}]}]
    made.objects[ADDRESS]["status"] = {"loadBalancer": {"ingress": ingress}}
    put_pod(made, "s-0", ready=True)


def put_pod(
    made: World,
    name: str,
    *,
    ready: bool,
    restarts: int = 0,
    ran_seconds: int = 1,
    code: int = 1,
    log: str = "unknown argument",
) -> None:
    """An engine pod of the Deployment's present template."""
    template = made.objects[DEPLOYMENT]["spec"]["template"]
    labels = {LABEL_KIND: "InferenceService", LABEL_NAME: "s", LABEL_STEP: "serve"}
    times = {"startedAt": "2026-01-02T03:00:00Z", "finishedAt": f"2026-01-02T03:{ran_seconds // 60:02}:01Z"}
    last = {"terminated": {"exitCode": code, "message": log, **times}}
    made.objects[ObjectKey("Pod", "default", name)] = {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels} | template["metadata"],
        "spec": {**template["spec"], "restartPolicy": "Always"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"restartCount": restarts, "ready": ready, "lastState": last}],
        },
    }


def change(made: World, **spec: Any) -> None:
    made.put(manifest("InferenceService", "s", {**SERVICE["spec"], **spec}))
    made.settle(succeed)


def test_a_new_variant_is_served_only_once_its_engines_answer() -> None:
    made = serving()
    assert made.objects[KEY]["status"]["digest"] == digest("bQ4_0")
    change(made, quantJobRef={"name": "q", "variant": "Q8_0"})
    status = made.objects[KEY]["status"]
    assert made.condition(KEY)["reason"] == "RollingOut"
    assert made.condition(KEY)["message"] == (
        "New engines are starting, because slm.dev/variant changes from Q4_0 to Q8_0. "
        f"The engines from before answer at {URL}/v1 until then."
    )
    assert (status["variant"], status["digest"], status["url"]) == ("Q4_0", digest("bQ4_0"), URL)
    roll_out(made)
    made.settle(succeed)
    status = made.objects[KEY]["status"]
    assert made.condition(KEY)["status"] == "True"
    assert (status["variant"], status["digest"]) == ("Q8_0", digest("bQ8_0"))


def test_a_change_that_crashes_is_stalled_and_says_that_the_old_engines_answer() -> None:
    made = serving()
    change(made, extraArgs=["--no-such-flag"])
    put_pod(made, "s-1", ready=False, restarts=5)
    made.settle(succeed)
    assert made.condition(KEY, "Stalled")["status"] == "True"
    assert made.condition(KEY)["reason"] == "EngineCrashed"
    crash, rest = made.condition(KEY)["message"].split(". ", 1)
    assert crash == "The engine ended 5 times, last with exit code 1: unknown argument"
    assert rest == f"The engines from before still answer at {URL}/v1."


@pytest.mark.parametrize(
    ("code", "log", "told"),
    [
        (137, "", "137 (it was killed, mostly for want of memory): it left no message"),
        (1, "oad the model\n\nno such file\nno such file\nending.\n", "1: oad the model; no such file; ending"),
        (1, "a" * 490 + "\nbegin\nthe last line\n", "1: begin; the last line"),
        (1, "b" * 2000, f"1: {'b' * 2000}"),
    ],
    ids=["killed", "lines that stand twice", "a long log", "one long line"],
)
def test_of_a_log_the_end_is_told_in_whole_lines(code: int, log: str, told: str) -> None:
    made = serving()
    change(made, extraArgs=["--no-such-flag"])
    put_pod(made, "s-1", ready=False, restarts=5, code=code, log=log)
    made.settle(succeed)
    message = made.condition(KEY)["message"]
    assert message.startswith(f"The engine ended 5 times, last with exit code {told}. The engines from before")


def test_an_engine_that_has_recovered_is_not_called_crashed() -> None:
    made = serving()
    put_pod(made, "s-0", ready=True, restarts=9)
    made.settle(succeed)
    assert made.condition(KEY)["message"] == f"1 of 1 engines answer at {URL}/v1."


def test_an_engine_that_ends_now_and_then_is_starting_again_and_not_crashing() -> None:
    made = serving()
    roll_out(made, ready=0)
    put_pod(made, "s-0", ready=False, restarts=9, ran_seconds=3000)
    made.settle(succeed)
    assert made.condition(KEY)["reason"] == "Starting"


def test_the_crash_of_an_engine_of_an_earlier_spec_is_not_held_against_the_new_one() -> None:
    made = serving({**SERVICE["spec"], "extraArgs": ["--no-such-flag"]})
    roll_out(made, ready=0)
    put_pod(made, "s-0", ready=False, restarts=5)
    made.settle(succeed)
    assert made.condition(KEY)["reason"] == "EngineCrashed"
    change(made)
    assert made.condition(KEY)["reason"] == "Starting"


def test_a_service_that_turns_from_a_model_to_a_variant_ends_the_conversion_it_began() -> None:
    made = World()
    for item in (MODEL, QUANT, manifest("InferenceService", "s", {"modelRef": {"name": "m"}})):
        made.put(item)

    def answer(label: str) -> Any:
        return succeed(label)

    for key in (ObjectKey("SLMModel", "default", "m"), ObjectKey("QuantJob", "default", "q")):
        while made.execute(key, made.plan(key)) + made.finish_jobs(answer):
            pass
    made.execute(KEY, made.plan(KEY))
    begun = [key for key in made.objects if key.kind == "Job" and key.name.startswith("s-convert")]
    made.put(manifest("InferenceService", "s", SERVICE["spec"]))
    assert (len(begun), made.plan(KEY).delete) == (1, tuple(begun))


def test_a_service_of_three_answers_with_one_and_says_so() -> None:
    made = serving({**SERVICE["spec"], "replicas": 3})
    roll_out(made, ready=1)
    made.settle(succeed)
    assert made.condition(KEY)["message"] == f"1 of 3 engines answer at {URL}/v1."


def test_a_quantjob_that_works_again_takes_no_address_away() -> None:
    made = serving()
    made.put(manifest("QuantJob", "q", {**QUANT["spec"], "variants": ["Q8_0", "Q4_0", "Q5_1"]}))
    made.settle(lambda label: None if label == "quantize-Q5_1" else succeed(label))
    status = made.objects[KEY]["status"]
    assert made.condition(KEY)["reason"] == "QuantJobNotReady"
    assert (status["url"], status["digest"], status["readyReplicas"]) == (URL, digest("bQ4_0"), 1)


def test_a_variant_asked_for_by_name_is_served_while_others_are_measured() -> None:
    made = World()
    for item in (MODEL, QUANT, manifest("InferenceService", "s", {"quantJobRef": {"name": "q", "variant": "Q8_0"}})):
        made.put(item)
    made.settle(lambda label: None if label == "evaluate-Q4_0" else succeed(label))
    assert made.condition(ObjectKey("QuantJob", "default", "q"))["reason"] == "Evaluating"
    assert made.objects[KEY]["status"]["variant"] == "Q8_0"
    assert DEPLOYMENT in made.objects
