"""The autoscaler's memory: what gateways told, whose word counts, and when a service must be looked at."""

from typing import Any

import pytest

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.registry import parse_resource
from slm_operator.core.answers import Answers, Tally
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.autoscaler import Autoscaler, Load
from tests.support.planning import manifest

KEY = ObjectKey("InferenceService", "default", "chat")
IDLE: dict[ObjectKey, Load] = {}


class Scene:
    """One service that sleeps after ten seconds, with two slots per engine, and a clock that is moved by hand."""

    def __init__(self, **autoscaling: Any) -> None:
        self.now = 1000.0
        self.woken: list[ObjectKey] = []
        self.autoscaler = Autoscaler(lambda: self.now)
        self.autoscaler.wake = self.woken.append
        spec = {"modelRef": {"name": "m"}, "parallel": 2}
        spec["autoscaling"] = {"maxReplicas": 4, "zeroAfterSeconds": 10, "scaleDownDelaySeconds": 0, **autoscaling}
        service = parse_resource(manifest("InferenceService", "chat", spec))
        assert isinstance(service, InferenceService)
        self.service = service
        self.wanted: int | None = None

    def look(self, ready: int | None = None) -> int:
        """What a look at the service decides."""
        scaling = self.autoscaler.decide(self.service, self.wanted, (self.wanted or 0) if ready is None else ready)
        self.wanted = scaling.replicas
        return self.wanted

    def wait(self, seconds: float, *gateways: str) -> None:
        """Let time pass, in which these gateways give signs of life."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for gateway in gateways:
                self.autoscaler.report(gateway, IDLE)


def asleep(*gateways: str) -> Scene:
    scene = Scene()
    assert scene.look() == 1
    scene.wait(60, *gateways)
    assert scene.look() == 0
    scene.woken.clear()
    return scene


@pytest.mark.parametrize(("least", "first"), [(0, 1), (1, 1), (3, 3)])
def test_a_new_service_starts_what_it_must_have_and_at_least_one(least: int, first: int) -> None:
    assert Scene(minReplicas=least).look() == first


def test_without_a_gateway_nothing_is_made_smaller() -> None:
    scene = Scene()
    assert scene.look() == 1
    scene.wait(3600)
    assert scene.look() == 1


def test_the_report_of_a_first_request_wakes_its_service_at_once() -> None:
    scene = asleep("g")
    scene.autoscaler.report("g", {KEY: Load(queued=1, begun=1)})
    assert (scene.woken, scene.look()) == ([KEY], 1)


def test_a_report_that_changes_nothing_wakes_nobody() -> None:
    scene = Scene()
    scene.look()
    scene.autoscaler.report("g", {KEY: Load(in_flight=1, begun=1)})
    scene.autoscaler.report("g", {KEY: Load()})
    assert scene.woken == []


def test_a_canary_that_fails_a_request_is_looked_at_at_once_and_its_step_adds_up_over_gateways() -> None:
    scene = Scene()
    scene.look()
    good, bad = Answers("step", Tally(3), Tally(2)), Answers("step", Tally(3), Tally(2, 1))
    for gateway, answers in (("g", good), ("h", good), ("h", Answers("before", Tally(), Tally(9, 9)))):
        scene.autoscaler.report(gateway, {KEY: Load(answers=answers)})
    scene.woken.clear()
    scene.autoscaler.report("h", {KEY: Load(answers=bad)})
    scene.autoscaler.report("h", {KEY: Load(answers=bad)})
    assert scene.woken == [KEY], "nobody is woken by what is known"
    canaries = scene.autoscaler.canaries
    assert canaries.of(KEY, "step") == Answers("step", Tally(6), Tally(4, 1))
    assert canaries.of(KEY, "next") == Answers("next")
    scene.autoscaler.lose("h")
    assert canaries.of(KEY, "step") == good
    scene.autoscaler.forget(KEY)
    assert canaries.of(KEY, "step") == Answers("step")


def test_a_service_that_is_not_known_yet_is_not_decided_about_but_remembered() -> None:
    scene = Scene()
    scene.autoscaler.report("g", {KEY: Load(queued=9, begun=9)})
    scene.wait(60, "g")
    assert (scene.woken, scene.look(ready=1)) == ([], 4)


def test_what_a_gateway_does_not_mention_is_as_it_was() -> None:
    scene = Scene()
    scene.look()
    scene.autoscaler.report("g", {KEY: Load(in_flight=1, begun=1)})
    scene.wait(600, "g")
    assert scene.look() == 1


def test_a_gateway_that_falls_silent_is_taken_to_hold_what_it_held_and_one_that_ended_is_not() -> None:
    scene = Scene()
    scene.look()
    scene.autoscaler.report("broken", {KEY: Load(in_flight=1, begun=1)})
    scene.wait(600, "good")
    assert scene.look() == 1
    scene.autoscaler.lose("broken")
    scene.wait(60, "good")
    assert scene.look() == 0


def test_a_service_that_was_deleted_and_made_again_begins_anew() -> None:
    scene = asleep("g")
    scene.autoscaler.forget(KEY)
    scene.wanted = None
    assert scene.look() == 1


def test_demand_is_the_sum_over_gateways() -> None:
    scene = Scene()
    scene.look()
    for gateway in ("a", "b"):
        scene.autoscaler.report(gateway, {KEY: Load(in_flight=1, queued=2, begun=3)})
    assert scene.look(ready=1) == 1, "nothing has waited yet"
    scene.wait(60, "a", "b")
    assert scene.look(ready=1) == 4


def test_the_first_report_of_a_connection_is_all_that_its_gateway_holds() -> None:
    scene = Scene()
    scene.look()
    scene.autoscaler.hear("g").report({KEY: Load(in_flight=1, begun=1)})
    scene.wait(60, "g")
    again = scene.autoscaler.hear("g")  # Its container was restarted, and the requests ended with it.
    assert again.report(IDLE)
    scene.wait(60, "g")
    assert scene.look() == 0


def test_what_a_gateway_still_holds_after_a_connection_broke_counts_on() -> None:
    scene = Scene()
    scene.look()
    scene.autoscaler.hear("g").report({KEY: Load(in_flight=1, begun=1)})
    scene.autoscaler.hear("g").report({KEY: Load(in_flight=1)})
    scene.wait(60, "g")
    assert scene.look() == 1


def test_a_connection_that_a_newer_one_replaced_neither_tells_nor_ends_anything() -> None:
    scene = Scene()
    scene.look()
    old = scene.autoscaler.hear("g")
    assert old.report(IDLE)
    scene.autoscaler.hear("g").report({KEY: Load(in_flight=1, begun=1)})
    assert not old.report({KEY: Load()})
    old.end()
    scene.wait(60, "g")
    assert scene.look() == 1


def test_leading_again_is_like_leading_for_the_first_time_but_for_demand() -> None:
    scene = asleep("g")
    scene.autoscaler.stand_by()
    scene.autoscaler.report("g", {KEY: Load(queued=1, begun=1)})
    assert scene.woken == [], "another process decides"
    scene.wait(600, "g")
    scene.wanted = 2  # The other's decision.
    assert scene.look() == 2, "its memory of how long ago a request came is of no use"
    scene.wait(30, "g")
    scene.autoscaler.report("g", {KEY: Load()})
    scene.wait(60, "g")
    assert scene.look() == 0


def test_a_service_that_was_deleted_while_another_process_led_is_remembered_by_nobody() -> None:
    scene = asleep("g")
    scene.autoscaler.stand_by()
    scene.wanted = None
    assert scene.look() == 1


def test_who_begins_to_lead_makes_nothing_smaller_until_every_gateway_can_have_been_heard() -> None:
    scene = Scene(zeroAfterSeconds=1)
    scene.wanted = 3
    assert scene.look() == 3
    scene.wait(10, "quick")
    assert scene.look() == 3
    scene.autoscaler.hear("slow").report({KEY: Load(in_flight=4, begun=4)})
    scene.wait(60, "quick", "slow")
    assert scene.look() == 3
    scene.autoscaler.lose("slow")
    scene.wait(60, "quick")
    assert scene.look() == 0
