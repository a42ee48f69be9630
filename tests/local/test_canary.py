"""A change that is tried on a part of the requests, with real engines: a good one is taken, a bad one given up."""

import json
from collections import Counter
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any, Self

import openai
import pytest

from tests.local.gateway_support import QUESTION, apply, engines, openai_client, tiny_service
from tests.support.backend import Backend, until

ASKERS = 3
CANARY = {"steps": [20, 50], "stepSeconds": 1, "minRequests": 5, "maxLatencyIncrease": 20}
"""Two engines on two busy CPUs slow each other down: a latency of many times the other's is no fault here."""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A service that answers."""
    rollout = {"canary": CANARY}
    with tiny_service(tmp_path_factory.mktemp("canary"), "canary", parallel=2, rollout=rollout) as backend:
        yield backend


def change(backend: Backend, bounds: dict[str, Any] | None = None, **spec: Any) -> None:
    apply(backend, parallel=2, rollout={"canary": {**CANARY, **(bounds or {})}}, **spec)


class Load:
    """Short answers without a pause, streamed and whole ones, by several threads at a time."""

    def __init__(self, backend: Backend, words: int = 1) -> None:
        self._words = words
        self.answers: Counter[str] = Counter()
        """How many came, and every problem."""
        self._client = openai_client(backend)
        self._enough = Event()
        self._threads = [Thread(target=self._ask, args=(number,)) for number in range(ASKERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(120)

    def _ask(self, asker: int) -> None:
        number = 0
        while not self._enough.is_set():
            number += 1
            try:
                self.answers[self._answer(f"{asker} {number}", stream=number % 2 == 0)] += 1
            except openai.OpenAIError as error:
                self.answers[repr(error)] += 1

    def _answer(self, text: str, *, stream: bool) -> str:
        # The beginning differs, so that no engine has it cached.
        question: list[Any] = [{"role": "user", "content": f"{text} " * self._words}, *QUESTION]
        created = self._client.chat.completions.create(
            model="tiny-service", messages=question, max_tokens=4, stream=stream
        )
        if not isinstance(created, openai.Stream):
            return "ok"
        return "ok" if any(event.choices and event.choices[0].finish_reason for event in created) else "cut"


def events(backend: Backend, reason: str) -> list[str]:
    found: list[dict[str, Any]] = json.loads(backend.slm("events", "-o", "json"))["items"]
    return [each["message"] for each in found if each["reason"] == reason]


def status(backend: Backend) -> dict[str, Any]:
    found: dict[str, Any] = backend.get("slmsvc", "tiny-service")["status"]
    return found


def ready(backend: Backend) -> str:
    """Reason of the service's Ready condition."""
    return next(str(each["reason"]) for each in status(backend)["conditions"] if each["type"] == "Ready")


def commands(backend: Backend) -> list[list[str]]:
    return [each["spec"]["containers"][0]["command"] for each in engines(backend)]


def test_a_good_change_is_taken_under_load_and_no_request_fails(backend: Backend) -> None:
    with Load(backend) as load:
        change(backend, extraArgs=["--temp", "0.3"])
        until(lambda: "canary" in status(backend), "nothing is tried")
        taken = until(lambda: events(backend, "CanaryPromoted"), f"it is not taken: {status(backend)}", 180)
        until(lambda: ready(backend) == "Ready", f"it is not rolled out: {status(backend)}", 60)
        until(lambda: len(engines(backend)) == 1, "its own engines stay", 60)
    assert set(load.answers) == {"ok"}, load.answers
    assert "--temp" in commands(backend)[0]
    assert "canary" not in status(backend)
    assert taken[0].startswith("The new spec takes over. At 50 %, the canary failed 0 of ")
    steps = " ".join(events(backend, "CanaryRunning"))
    assert "Step 1 of 2: 20 % of the requests go to the new spec. Its engines answer." in steps
    assert "Step 2 of 2: 50 % of the requests go to the new spec. At 20 %, the canary failed 0 of " in steps
    assert "ms to the first token" in steps


def test_a_trial_goes_on_where_it_was_when_the_daemon_was_killed(backend: Backend) -> None:
    with Load(backend) as load:
        change(backend, {"stepSeconds": 3}, extraArgs=["--temp", "0.4"])
        until(lambda: status(backend).get("canary", {}).get("percent"), "it gets no requests", 60)
        begun = status(backend)["canary"]
        backend.kill_daemon()
        backend.slm("up")
        assert status(backend)["canary"]["template"] == begun["template"]
        until(lambda: len(events(backend, "CanaryPromoted")) == 2, f"it is not taken: {status(backend)}", 180)
        until(lambda: ready(backend) == "Ready", f"it is not rolled out: {status(backend)}", 60)
    assert set(load.answers) == {"ok"}, load.answers


def test_a_change_that_makes_answers_slow_is_given_up(backend: Backend) -> None:
    before = commands(backend)
    with Load(backend, words=100) as load:
        # Prompts are read word by word then.
        change(backend, {"maxLatencyIncrease": 0.5}, extraArgs=["--batch-size", "32", "--ubatch-size", "1"])
        until(lambda: ready(backend) == "CanaryRolledBack", f"it is not given up: {status(backend)}", 180)
    assert set(load.answers) == {"ok"}, load.answers
    assert (commands(backend), status(backend)["canary"]["state"]) == (before, "RolledBack")
    (told,) = events(backend, "CanaryRolledBack")
    assert " longer, and maxLatencyIncrease is 0.5: the canary failed 0 of " in told


def test_a_change_that_crashes_at_its_start_is_given_up_and_no_request_fails(backend: Backend) -> None:
    before = commands(backend)
    with Load(backend) as load:
        change(backend, extraArgs=["--no-such-flag"])
        until(lambda: ready(backend) == "CanaryRolledBack", f"it is not given up: {status(backend)}", 180)
    assert set(load.answers) == {"ok"}, load.answers
    assert (commands(backend), status(backend)["canary"]["state"]) == (before, "RolledBack")
    told = events(backend, "CanaryRolledBack")[-1]
    assert "The new spec was rolled back. The engine ended 3 times, last with exit code 1: " in told
    assert "Change the spec to try something else." in told
