"""A change that is tried first: on which engines, with how many requests, and what becomes of it."""

import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.core.answers import Answers, Tally, name_step
from slm_operator.core.manifests.metadata import ANNOTATION_RETRY, LABEL_KIND, LABEL_NAME, LABEL_STEP
from slm_operator.core.plan import ObjectKey, Plan
from slm_operator.core.service_snapshot import ServiceSnapshot
from tests.support.planning import MODEL, NOW, QUANT, World, digest, manifest, succeed

KEY = ObjectKey("InferenceService", "default", "s")
STABLE, CANARY = ObjectKey("Deployment", "default", "s"), ObjectKey("Deployment", "default", "s-canary")
ADDRESS = ObjectKey("Service", "default", "s")
URL = "http://127.0.0.1:4321"
BOUNDS = {"steps": [10, 50], "stepSeconds": 30, "minRequests": 20}
SPEC = {"quantJobRef": {"name": "q"}, "rollout": {"canary": BOUNDS}}
OTHER = {"quantJobRef": {"name": "q", "variant": "Q8_0"}}


class Trial(World):
    """A world with one service, whose time is moved by hand."""

    seconds = 0.0
    answers: Answers | None = None
    """What gateways counted in the last step that something was counted in."""

    def service_snapshot(self, service: InferenceService) -> ServiceSnapshot:
        snapshot, answers = super().service_snapshot(service), self.answers
        known = answers is not None and answers.step == self.step
        return replace(snapshot, canary=replace(snapshot.canary, answers=answers)) if known else snapshot

    @property
    def step(self) -> str:
        canary = self.canary
        return name_step(canary["template"], canary["percent"], canary["since"]) if canary else ""

    def plan(self, key: ObjectKey, now: Any = NOW) -> Plan:
        return super().plan(key, now + timedelta(seconds=self.seconds))

    def change(self, **spec: Any) -> None:
        """The user wants this now; the cluster does nothing yet."""
        self.put(manifest("InferenceService", "s", {**SPEC, **spec}))
        self.settle(succeed)

    def wait(self, seconds: float, canary: Tally | None = None, stable: Tally | None = None) -> None:
        """Let time pass in which this was counted."""
        self.seconds += seconds
        self.answers = Answers(self.step, stable or Tally(1000), canary or Tally())
        self.settle(succeed)

    def get_ready(self, key: ObjectKey = STABLE) -> None:
        """Let all engines of a Deployment get ready."""
        self.run(key)
        self.settle(succeed)

    def run(self, key: ObjectKey, *, restarts: int = 0) -> None:
        """Its controller has done its work; an engine that restarts is not ready."""
        deployment = self.objects[key]
        count = deployment["spec"]["replicas"]
        numbers = {"replicas": count, "updatedReplicas": count, "readyReplicas": 0 if restarts else count}
        deployment["status"] = {"observedGeneration": deployment["metadata"]["generation"], **numbers}
        if ADDRESS in self.objects:
            ingress = [{"ip": "127.0.0.1", "ports": [{"port": 4321}]}]
            self.objects[ADDRESS]["status"] = {"loadBalancer": {"ingress": ingress}}
        self.put_pods(key, count, restarts)

    def put_pods(self, key: ObjectKey, count: int, restarts: int = 0) -> None:
        """Engines of the Deployment's present template."""
        for name in [each for each in self.objects if each.kind == "Pod" and each.name.startswith(f"{key.name}.")]:
            del self.objects[name]
        template = self.objects[key]["spec"]["template"]
        stamps = {"startedAt": "2026-01-02T03:00:00Z", "finishedAt": "2026-01-02T03:00:01Z"}
        last = {"terminated": {"exitCode": 1, "message": "unknown argument", **stamps}}
        for number in range(count):
            pod = f"{key.name}.{number}"
            self.objects[ObjectKey("Pod", "default", pod)] = {
                "kind": "Pod",
                "metadata": {"name": pod, "namespace": "default", **copy.deepcopy(template["metadata"])},
                "spec": {**template["spec"], "restartPolicy": "Always"},
                "status": {
                    "conditions": [{"type": "Ready", "status": "False" if restarts else "True"}],
                    "containerStatuses": [{"restartCount": restarts, "ready": not restarts, "lastState": last}],
                },
            }

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.objects[KEY]["status"])

    @property
    def canary(self) -> dict[str, Any]:
        return dict(self.status.get("canary", {}))

    def told(self) -> tuple[str, str]:
        """Reason and message of Ready."""
        found = self.condition(KEY)
        return found["reason"], found["message"]

    def variant(self, key: ObjectKey) -> str:
        """What a Deployment's template serves."""
        return str(self.objects[key]["spec"]["template"]["metadata"]["annotations"]["slm.dev/variant"])

    def said(self, *reasons: Reason) -> list[str]:
        """Events with one of these reasons."""
        return [event.message for event in self.events if event.reason in reasons]


def serving(**spec: Any) -> Trial:
    """A world whose service is Ready on Q4_0."""
    made = Trial()
    for item in (MODEL, QUANT, manifest("InferenceService", "s", {**SPEC, **spec})):
        made.put(item)
    made.settle(succeed)
    made.get_ready()
    assert made.told()[0] == "Ready"
    made.events.clear()
    return made


def trying(**spec: Any) -> Trial:
    """A world whose service tries Q8_0, in the first step."""
    made = serving(**spec)
    made.change(**{**spec, **OTHER})
    made.get_ready(CANARY)
    assert made.canary["percent"] == 10
    return made


def test_the_first_engines_of_a_service_are_no_canary() -> None:
    made = serving()
    assert (CANARY in made.objects, made.canary) == (False, {})


def test_without_a_canary_in_the_spec_a_change_rolls_as_ever() -> None:
    made = serving(rollout={})
    made.change(rollout={}, **OTHER)
    assert (made.variant(STABLE), CANARY in made.objects, made.told()[0]) == ("Q8_0", False, "RollingOut")


def test_a_good_change_goes_from_step_to_step_and_is_taken() -> None:
    made = serving()
    made.change(**OTHER)
    assert (made.variant(STABLE), made.variant(CANARY)) == ("Q4_0", "Q8_0")
    assert (made.canary["state"], made.canary["variant"], made.canary["digest"]) == ("Running", "Q8_0", digest("bQ8_0"))
    assert made.canary["percent"] == 0, "no request before its engines answer"
    message = (
        "A canary of Q8_0 starts, because slm.dev/variant changes from Q4_0 to Q8_0. "
        f"All requests go to the engines from before. They answer at {URL}/v1."
    )
    assert made.told() == ("CanaryRunning", message)
    made.get_ready(CANARY)
    assert (made.canary["percent"], made.status["variant"]) == (10, "Q4_0")
    made.wait(29, Tally(20))
    assert made.canary["requests"] == 20
    assert made.told()[1] == (
        "Step 1 of 2: 10 % of the requests go to Q8_0. It lasts 30 s at least: the canary failed 0 of 20 requests; "
        "the other engines failed 0 of 1000 requests."
    )
    made.wait(1, Tally(21))
    assert (made.canary["percent"], made.canary["requests"]) == (50, 0)
    made.wait(30, Tally(300))
    assert (made.canary["state"], made.canary["percent"], made.variant(STABLE)) == ("Promoting", 50, "Q8_0")
    assert made.told()[0] == "RollingOut"
    assert CANARY in made.objects, "it answers until the others do"
    made.get_ready()
    assert (CANARY in made.objects, made.canary, made.told()[0]) == (False, {}, "Ready")
    assert (made.status["variant"], made.status["digest"]) == ("Q8_0", digest("bQ8_0"))
    stable = "the other engines failed 0 of 1000 requests."
    assert made.said(Reason.CANARY_RUNNING, Reason.CANARY_PROMOTED) == [
        message,
        "Step 1 of 2: 10 % of the requests go to Q8_0. Its engines answer.",
        f"Step 2 of 2: 50 % of the requests go to Q8_0. At 10 %, the canary failed 0 of 21 requests; {stable}",
        f"Q8_0 takes over. At 50 %, the canary failed 0 of 300 requests; {stable}",
    ]


def test_a_change_that_fails_requests_is_given_up_and_not_tried_again() -> None:
    made = trying()
    made.wait(5, Tally(3, 3))
    assert (CANARY in made.objects, made.variant(STABLE)) == (False, "Q4_0")
    assert (made.canary["state"], made.canary["percent"], made.canary["errors"]) == ("RolledBack", 0, 3)
    assert made.condition(KEY, "Stalled")["status"] == "True"
    why = "the canary failed 3 of 3 requests; the other engines failed 0 of 1000 requests."
    message = (
        "Q8_0 was rolled back. At 10 %, more than 1.0% of its requests failed, and maxErrorRate is 0.01: "
        f"{why} The engines from before answer at {URL}/v1. Change the spec to try something else."
    )
    assert made.told() == ("CanaryRolledBack", message)
    (event,) = (each for each in made.events if each.reason == Reason.CANARY_ROLLED_BACK)
    assert (event.type, event.message) == ("Warning", message)
    writes = made.writes
    made.wait(3600, Tally(1000))
    assert made.writes == writes, "nothing is tried again, and nothing is said twice"


def test_what_was_given_up_is_tried_again_when_it_is_asked_for_anew() -> None:
    made = trying()
    made.wait(5, Tally(3, 1))
    made.change()
    assert (made.told()[0], made.canary) == ("Ready", {}), "back to what is served"
    made.change(**OTHER)
    assert made.canary["state"] == "Running"
    made.get_ready(CANARY)
    made.wait(5, Tally(3, 1))
    made.objects[KEY]["metadata"]["annotations"] = {ANNOTATION_RETRY: "2"}
    made.settle(succeed)
    assert made.canary["state"] == "Running"


def test_a_change_that_crashes_at_its_start_is_given_up() -> None:
    made = serving()
    made.change(extraArgs=["--no-such-flag"])
    made.run(CANARY, restarts=3)
    made.settle(succeed)
    assert (made.canary["state"], CANARY in made.objects) == ("RolledBack", False)
    assert made.told()[1] == (
        "The new spec was rolled back. The engine ended 3 times, last with exit code 1: unknown argument. "
        f"The engines from before answer at {URL}/v1. Change the spec to try something else."
    )


def test_a_change_whose_engines_are_not_ready_in_time_is_given_up() -> None:
    made = serving()
    made.change(**OTHER)
    overdue = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    made.objects[CANARY]["status"] = {"conditions": [overdue]}
    made.settle(succeed)
    assert made.told()[1].startswith(
        "Q8_0 was rolled back. Its engines did not get ready in time: Engines are starting"
    )


def test_a_variant_of_too_little_quality_gets_no_engine() -> None:
    made = serving(rollout={"canary": {**BOUNDS, "maxTopOneLoss": 0.0}})
    job = made.objects[ObjectKey("QuantJob", "default", "q")]["status"]
    next(each for each in job["variants"] if each["type"] == "Q8_0")["topOneAgreement"] = 0.9
    made.put(manifest("InferenceService", "s", {"rollout": {"canary": {**BOUNDS, "maxTopOneLoss": 0.0}}, **OTHER}))
    plan = made.plan(KEY)
    made.execute(KEY, plan)
    assert (CANARY in made.objects, made.variant(STABLE), made.canary["state"]) == (False, "Q4_0", "RolledBack")
    assert "Q8_0 agrees with its original on 90.00% of the tokens, Q4_0 on 98.00%: it loses 0.0800" in made.told()[1]


def test_another_change_in_the_middle_begins_anew_with_the_newest() -> None:
    made = trying()
    before = made.canary
    made.change(extraArgs=["--temp", "0.2"])
    assert (made.variant(STABLE), made.variant(CANARY), made.canary["percent"]) == ("Q4_0", "Q4_0", 0)
    assert made.canary["template"] != before["template"]
    made.get_ready(CANARY)
    assert made.canary["percent"] == 10
    made.change()
    assert (CANARY in made.objects, made.canary, made.told()[0]) == (False, {}, "Ready"), "back before it was judged"


def test_a_change_while_all_engines_are_replaced_is_tried_too() -> None:
    made = trying()
    made.wait(30, Tally(20))
    made.wait(30, Tally(20))
    assert made.canary["state"] == "Promoting"
    made.change(**OTHER, extraArgs=["--temp", "0.2"])
    assert (made.variant(STABLE), made.canary["state"], made.canary["percent"]) == ("Q8_0", "Running", 0)
    assert "--temp" not in made.objects[STABLE]["spec"]["template"]["spec"]["containers"][0]["command"]


def test_who_takes_the_canary_out_of_the_spec_has_the_change_at_once() -> None:
    made = trying()
    made.change(rollout={}, **OTHER)
    assert (made.variant(STABLE), CANARY in made.objects, made.canary) == ("Q8_0", False, {})


def test_a_canary_has_as_many_engines_as_its_share_needs() -> None:
    made = trying(replicas=4)
    assert made.objects[CANARY]["spec"]["replicas"] == 1
    made.wait(30, Tally(20))
    assert (made.objects[CANARY]["spec"]["replicas"], made.objects[STABLE]["spec"]["replicas"]) == (2, 4)


def test_the_number_of_engines_changes_while_a_change_is_tried() -> None:
    made = trying()
    made.change(replicas=3, **OTHER)
    assert (made.objects[STABLE]["spec"]["replicas"], made.variant(STABLE)) == (3, "Q4_0")
    assert made.canary["state"] == "Running"


def test_at_zero_engines_a_new_change_is_taken_and_one_that_is_tried_waits() -> None:
    made = serving()
    made.change(replicas=0)
    made.change(replicas=0, **OTHER)
    assert (made.variant(STABLE), CANARY in made.objects, made.canary) == ("Q8_0", False, {})
    made = trying()
    made.change(replicas=0, **OTHER)
    assert (made.variant(STABLE), CANARY in made.objects, made.canary["state"]) == ("Q4_0", False, "Running")
    assert made.told()[0] == "Stopped"
    made.run(STABLE)
    made.change(**OTHER)
    assert CANARY not in made.objects, "first there must be something to compare with"
    made.get_ready()
    assert (CANARY in made.objects, made.canary["percent"]) == (True, 0)


def test_what_cannot_be_planned_can_still_be_stopped() -> None:
    made = trying()
    del made.objects[ObjectKey("QuantJob", "default", "q")]
    made.change(replicas=0, **OTHER)
    assert made.told()[0] == "QuantJobNotFound"
    assert (STABLE in made.objects, CANARY in made.objects) == (False, False)


def test_what_was_given_up_is_not_taken_at_zero_engines_either() -> None:
    made = trying()
    made.wait(5, Tally(3, 3))
    made.change(replicas=0, **OTHER)
    assert (made.variant(STABLE), made.canary["state"]) == ("Q4_0", "RolledBack")
    made.change(**OTHER)
    made.get_ready()
    assert (made.variant(STABLE), made.told()[0]) == ("Q4_0", "CanaryRolledBack")


def test_a_service_that_is_broken_already_is_mended_at_once() -> None:
    made = serving(extraArgs=["--no-such-flag"])
    made.run(STABLE, restarts=5)
    made.settle(succeed)
    assert made.told()[0] == "EngineCrashed"
    made.change()
    assert (CANARY in made.objects, made.canary) == (False, {})


def test_engines_that_break_while_a_change_is_tried_are_told_first() -> None:
    made = trying()
    made.run(STABLE, restarts=5)
    made.settle(succeed)
    assert made.told()[0] == "EngineCrashed"
    assert made.canary["state"] == "Running"


def test_a_suspended_service_keeps_both_as_they_are() -> None:
    made = trying()
    before = made.canary
    made.change(suspend=True, extraArgs=["--temp", "0.2"])
    made.wait(3600, Tally(1000))
    assert (made.variant(STABLE), made.variant(CANARY), made.canary) == ("Q4_0", "Q8_0", before)


def test_another_change_at_zero_waits_for_what_to_compare_with_once_one_was_given_up() -> None:
    made = trying()
    made.wait(5, Tally(3, 3))
    made.change(replicas=0, extraArgs=["--temp", "0.3"], **OTHER)
    assert (made.variant(STABLE), made.status["variant"]) == ("Q4_0", "Q4_0")
    made.change(extraArgs=["--temp", "0.3"], **OTHER)
    made.get_ready()
    assert (made.variant(STABLE), made.variant(CANARY)) == ("Q4_0", "Q8_0")


def test_a_canary_makes_room_for_those_that_follow_it_where_there_is_none() -> None:
    made = trying()
    for _ in range(4):
        made.wait(3600, Tally(1000))
    assert (made.canary["state"], made.variant(STABLE), CANARY in made.objects) == ("Promoting", "Q8_0", True)
    template = made.objects[STABLE]["spec"]["template"]
    told = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "Insufficient nvidia.com/gpu",
    }
    made.objects[ObjectKey("Pod", "default", "new")] = {
        "kind": "Pod",
        "metadata": {"name": "new", "namespace": "default", **template["metadata"]},
        "spec": template["spec"],
        "status": {"phase": "Pending", "conditions": [told]},
    }
    made.settle(succeed)
    assert (made.told()[0], CANARY in made.objects) == ("PodWaiting", False)


def test_a_quantjob_that_works_again_lets_a_canary_rest() -> None:
    made = trying()
    made.put(manifest("QuantJob", "q", {**QUANT["spec"], "variants": ["Q8_0", "Q4_0", "Q5_1"]}))
    made.put(manifest("InferenceService", "s", {**SPEC, "quantJobRef": {"name": "q"}}))
    made.settle(lambda label: None if label == "quantize-Q5_1" else succeed(label))
    assert made.told()[0] == "QuantJobNotReady"
    assert (made.canary["state"], made.canary["percent"], made.variant(CANARY)) == ("Running", 0, "Q8_0")


def test_figures_are_written_when_they_are_news() -> None:
    made = trying()
    writes = made.writes
    for number in range(10):
        made.wait(0, Tally(100 + number))
    assert made.writes - writes == 1


def test_no_selector_means_engines_of_both() -> None:
    made = serving()
    made.change(**OTHER)
    labels = [made.objects[key]["spec"]["template"]["metadata"]["labels"] for key in (STABLE, CANARY)]
    common = {"app.kubernetes.io/managed-by": "slm-operator", LABEL_KIND: "InferenceService", LABEL_NAME: "s"}
    assert [each[LABEL_STEP] for each in labels] == ["serve", "canary"]
    for number, key in enumerate((STABLE, CANARY)):
        selector = made.objects[key]["spec"]["selector"]["matchLabels"]
        assert selector == {**common, LABEL_STEP: labels[number][LABEL_STEP]}
    assert made.objects[ADDRESS]["spec"]["selector"][LABEL_STEP] == "serve"


actions = st.lists(
    st.sampled_from(["good", "bad", "answer", "crash", "other", "back", "args", "zero", "one"]), min_size=1, max_size=14
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions)
def test_whatever_happens_a_change_gets_no_more_than_its_share_and_ends_taken_or_given_up(
    happenings: list[str],
) -> None:
    made, spec = serving(), dict[str, Any]()
    for happening in [*happenings, "one", "answer", *(["good", "answer"] * 5)]:
        steps(made, spec, happening)
        keep_promises(made)
    assert CANARY not in made.objects
    assert made.canary.get("state", "RolledBack") == "RolledBack"


def steps(made: Trial, spec: dict[str, Any], happening: str) -> None:
    """One thing that a user or the cluster does."""
    wanted: dict[str, dict[str, Any]] = {
        "other": OTHER,
        "back": {"quantJobRef": {"name": "q"}, "extraArgs": []},
        "args": {"extraArgs": ["--mlock"]},
    }
    wanted |= {"zero": {"replicas": 0}, "one": {"replicas": 1}}
    if happening in wanted:
        spec |= wanted[happening]
        made.change(**spec)
    elif happening == "crash":
        if CANARY in made.objects:
            made.run(CANARY, restarts=3)
            made.settle(succeed)
    elif happening == "answer":
        for key in (STABLE, CANARY):
            if key in made.objects:
                made.get_ready(key)
    else:
        made.wait(30, Tally(100, 0 if happening == "good" else 50))


def keep_promises(made: Trial) -> None:
    """What must hold at every moment."""
    canary = made.canary
    assert canary.get("percent", 0) in (0, *BOUNDS["steps"])  # type: ignore[misc]
    if canary.get("state") == "RolledBack":
        assert canary["percent"] == 0
        assert CANARY not in made.objects
    if canary.get("percent"):
        assert CANARY in made.objects
