"""Engines follow demand: none while nobody asks, one for the first request, more for a burst, and no answer is cut."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from tests.local.gateway_support import QUESTION, LongAnswer, apply, engines, openai_client, tiny_service
from tests.support.backend import Backend, until

ASKERS = 6
QUICK = {"maxReplicas": 2, "zeroAfterSeconds": 1, "scaleDownDelaySeconds": 0}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with tiny_service(tmp_path_factory.mktemp("scaling"), "scaling", parallel=1, autoscaling=QUICK) as backend:
        yield backend


def ready(backend: Backend) -> tuple[str, str]:
    """Status and reason of the service's Ready condition."""
    conditions = backend.get("slmsvc", "tiny-service").get("status", {}).get("conditions", [])
    return next(((each["status"], each["reason"]) for each in conditions if each["type"] == "Ready"), ("", ""))


def wait_for_zero(backend: Backend) -> None:
    until(lambda: ready(backend) == ("True", "ScaledToZero"), f"it does not go to zero: {ready(backend)}", 120)
    until(lambda: not engines(backend), "its engine stays")


def scaled(backend: Backend) -> list[str]:
    events: list[dict[str, Any]] = json.loads(backend.slm("events", "-o", "json"))["items"]
    return [each["message"] for each in events if each["reason"] == "Scaled"]


def ask(backend: Backend) -> int:
    answer = openai_client(backend).chat.completions.create(model="tiny", messages=QUESTION, max_tokens=4)
    assert answer.usage
    return answer.usage.completion_tokens


def test_from_zero_to_an_answer_and_back(backend: Backend) -> None:
    wait_for_zero(backend)
    assert ask(backend) > 0
    told = scaled(backend)
    assert "Scaled from 0 to 1 engines, as demand asks for: woken, as 1 request waits and none runs." in told, told
    wait_for_zero(backend)


def test_a_burst_gets_more_engines_and_every_answer_is_whole(backend: Backend) -> None:
    answers: list[list[LongAnswer]] = [[] for _ in range(ASKERS)]
    enough = Event()

    def ask_again_and_again(mine: list[LongAnswer]) -> None:
        """A burst that lasts: of one that the first engine answers in a moment a second engine would come too late."""
        while not enough.is_set():
            mine.append(LongAnswer(backend))
            mine[-1].wait()

    askers = [Thread(target=ask_again_and_again, args=(mine,)) for mine in answers]
    for each in askers:
        each.start()
    try:
        until(lambda: len(engines(backend)) == 2, "no second engine", 120)
    finally:
        enough.set()
    for each in askers:
        each.join(400)
    assert all(answers)
    for mine in answers:
        for answer in mine:
            answer.check()
    wait_for_zero(backend)


def test_it_goes_on_when_gateway_or_daemon_were_killed(backend: Backend) -> None:
    killed = backend.gateway().pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: backend.gateway().pid != killed, "no new gateway")
    assert ask(backend) > 0
    backend.kill_daemon()
    backend.slm("up")
    assert ask(backend) > 0
    wait_for_zero(backend)


def test_a_stopped_service_stays_stopped(backend: Backend) -> None:
    backend.slm("stop", "tiny-service")
    until(lambda: ready(backend) == ("False", "Stopped"), "it is not stopped")
    apply(backend, parallel=1, autoscaling={**QUICK, "minReplicas": 1})
    until(lambda: ready(backend) == ("True", "Ready"), f"it does not start: {ready(backend)}", 120)


def test_an_idle_engine_drops_its_weights_and_takes_them_up_for_the_next_request(backend: Backend) -> None:
    apply(backend, parallel=1, autoscaling={**QUICK, "minReplicas": 1, "sleepAfterSeconds": 1})
    until(lambda: any("--sleep-idle-seconds" in words(each) for each in engines(backend)), "no engine that sleeps", 60)
    backend.wait_ready("slmsvc", "tiny-service")
    assert ask(backend) > 0
    until(lambda: all(map(sleeps, engines(backend))), "no engine falls asleep")
    (engine,) = engines(backend)
    assert ask(backend) > 0
    assert [each["metadata"]["uid"] for each in engines(backend)] == [engine["metadata"]["uid"]]
    until(lambda: sleeps(engine), "it does not fall asleep again")
    assert ready(backend)[0] == "True"


def words(engine: dict[str, Any]) -> list[str]:
    return list(engine["spec"]["containers"][0]["command"])


def sleeps(engine: dict[str, Any]) -> bool:
    """What the engine says of itself; asking does not wake it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{engine['status']['port']}/props", timeout=10) as answer:
        return bool(json.load(answer)["is_sleeping"])
