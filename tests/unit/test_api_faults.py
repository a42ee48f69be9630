"""The fault proxy's rules: which calls they pick, and how calls are told apart."""

import json
import random

import pytest

from tests.support.api_calls import WRITES, Call, Record, count, parse_call
from tests.support.api_faults import Fault, gone, pick

CALLS = [
    ("GET", "/api/v1/pods", {}, Call("list", "pods")),
    ("GET", "/api/v1/pods", {"watch": "true"}, Call("watch", "pods")),
    ("GET", "/api/v1/namespaces/a", {}, Call("get", "namespaces", "", "a")),
    ("PUT", "/api/v1/namespaces/a/finalize", {}, Call("update", "namespaces/finalize", "", "a")),
    ("GET", "/api/v1/namespaces/a/pods/p/log", {}, Call("get", "pods/log", "a", "p")),
    ("POST", "/apis/batch/v1/namespaces/a/jobs", {}, Call("create", "jobs", "a")),
    ("DELETE", "/apis/batch/v1/namespaces/a/jobs", {}, Call("deletecollection", "jobs", "a")),
    (
        "PATCH",
        "/apis/slm.dev/v1alpha1/namespaces/a/quantjobs/q/status",
        {},
        Call("patch", "quantjobs/status", "a", "q"),
    ),
    ("GET", "/apis/slm.dev/v1alpha1", {}, Call("get", "/apis/slm.dev/v1alpha1")),
    ("GET", "/version", {}, Call("get", "/version")),
]


@pytest.mark.parametrize(("method", "path", "query", "expected"), CALLS)
def test_requests_are_told_apart_as_rbac_does(method: str, path: str, query: dict[str, str], expected: Call) -> None:
    assert parse_call(method, path, query) == expected


def dice_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 (repeatable, not secret)


def test_a_share_picks_the_same_calls_with_the_same_seed() -> None:
    def picked(seed: int) -> list[bool]:
        dice, fault = dice_of(seed), Fault(status=409, share=0.3)
        return [fault.picks(Call("patch", "jobs"), dice) for _ in range(200)]

    assert picked(1) == picked(1)
    assert picked(1) != picked(2)
    assert 40 < sum(picked(1)) < 80


def test_a_rule_picks_its_verbs_and_resources_as_often_as_it_may() -> None:
    fault, dice = Fault(status=500, verbs=WRITES, resources=frozenset({"jobs"}), limit=2), dice_of(0)
    jobs = Call("create", "jobs")
    assert not fault.picks(Call("get", "jobs"), dice)
    assert not fault.picks(Call("create", "pods"), dice)
    assert [fault.picks(jobs, dice) for _ in range(3)] == [True, True, False]
    other = Fault(drop=True)
    assert pick([fault, other], jobs, dice) is other
    assert (fault.picked, other.picked) == (2, 1)


def test_a_lost_answer_is_never_that_of_a_watch() -> None:
    assert not Fault(status=500, after=True).picks(Call("watch", "pods"), dice_of(0))


def test_gone_is_a_status_or_an_event() -> None:
    call = Call("watch", "pods")
    status = json.loads(gone("status").body(call))
    assert (status["code"], status["reason"], status["message"]) == (410, "Expired", "injected: watch pods")
    assert json.loads(gone("event").body(call)) == {"type": "ERROR", "object": status}


def test_calls_are_counted_by_verb_and_resource() -> None:
    records = [Record(Call(verb, "jobs"), 200, reached=True, at=0.0) for verb in ("patch", "get", "patch")]
    assert count(records, WRITES) == {"patch jobs": 2}
    assert count(records) == {"patch jobs": 2, "get jobs": 1}
