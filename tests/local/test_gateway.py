"""One address for every service on a laptop: real engines, OpenAI's and Ollama's own clients, and what goes wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import psutil
import pytest

from slm_operator.local.gateway_keeper import GATEWAY_COMMAND
from slm_operator.local.lifecycle import EXIT_RUNNING
from tests.local.cli_support import is_gone
from tests.local.gateway_support import QUESTION, LongAnswer, apply, engines, openai_client, tiny_service, url
from tests.support.backend import Backend, until

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A picture of one pixel, as base64."""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A model and a service of it that answers."""
    with tiny_service(tmp_path_factory.mktemp("gateway")) as backend:
        yield backend


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Backend]:
    """A state folder in which nothing runs, nor afterwards."""
    backend = Backend(tmp_path, gateway=True)
    yield backend
    backend.slm("down")
    until(lambda: not backend.processes(), "processes outlive the daemon")


def test_status_tells_the_address(backend: Backend) -> None:
    told = json.loads(backend.slm("status", "-o", "json"))["gateway"]
    assert told == {"url": url(backend), "processId": backend.gateway().pid}
    assert f"gateway: {url(backend)}, process" in backend.slm("status")


@pytest.mark.parametrize("name", ["tiny-service", "default/tiny-service", "tiny", "default/tiny"])
def test_openais_client_reaches_a_service_by_each_of_its_names(backend: Backend, name: str) -> None:
    client = openai_client(backend)
    assert [each.id for each in client.models.list()] == ["default/tiny-service"]
    answer = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=4)
    assert answer.usage
    assert answer.usage.completion_tokens > 0


def test_pictures_and_sound_that_the_model_does_not_take_are_refused_with_where_that_is_set(backend: Backend) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    for part in (picture, sound):
        messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]
        with pytest.raises(openai.BadRequestError, match=r"field spec\.projectorRef of its service") as refused:
            openai_client(backend).chat.completions.create(model="tiny", messages=messages, max_tokens=4)
        assert refused.value.code == "unsupported_media"
    with pytest.raises(ollama.ResponseError, match=r"spec\.projectorRef"):
        ollama.Client(host=url(backend)).chat("tiny", [{"role": "user", "content": "What?", "images": [PNG]}])


def test_ollamas_client_finds_and_calls_the_same_service(backend: Backend) -> None:
    client = ollama.Client(host=url(backend))
    (listed,) = client.list().models
    service = backend.get("slmsvc", "tiny-service")["status"]
    assert (listed.model, listed.size, f"sha256:{listed.digest}") == (
        "tiny-service",
        service["sizeBytes"],
        service["digest"],
    )
    assert client.show("tiny").modelinfo
    parts = list(client.chat("tiny-service", QUESTION, stream=True, options={"num_predict": 4}))
    assert parts[-1].done
    assert parts[-1].eval_count
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found"):
        client.chat("nobody", QUESTION)


def test_an_answer_outlives_a_killed_daemon(backend: Backend) -> None:
    answer = LongAnswer(backend)
    before = backend.gateway()
    backend.kill_daemon()
    backend.slm("up")
    answer.check()
    assert backend.gateway() == before


def test_an_answer_ends_whole_while_its_engine_is_replaced(backend: Backend) -> None:
    answer = LongAnswer(backend)
    apply(backend, parallel=2)
    answer.check()
    until(lambda: len(engines(backend)) == 1, "the old engine stays")


def test_a_request_to_a_stopped_service_is_refused_and_one_to_a_service_that_starts_is_held(backend: Backend) -> None:
    apply(backend, replicas=0)
    until(lambda: not engines(backend), "the engine stays")
    with pytest.raises(openai.InternalServerError, match="it is stopped, until") as refused:
        LongAnswer(backend)
    assert refused.value.code == "not_served"
    apply(backend)
    LongAnswer(backend).check()


def test_an_answer_outlives_its_engine(backend: Backend) -> None:
    (engine,) = engines(backend)
    processes = psutil.Process(engine["status"]["processId"]).children()
    answer = LongAnswer(backend, 1900)
    for process in processes:  # Known before, since on an idle machine the answer takes a few seconds.
        process.kill()
    answer.check()
    assert "goes on with another engine" in (backend.folder / "state" / "gateway.log").read_text()


def test_a_killed_gateway_is_started_again_and_one_that_is_told_to_end_ends_its_answers(backend: Backend) -> None:
    killed = backend.gateway().pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: backend.gateway().pid != killed, "no new gateway")
    answer, ending = LongAnswer(backend), backend.gateway()
    os.kill(ending.pid, signal.SIGTERM)
    until(lambda: backend.gateway().pid != ending.pid, "no new gateway while the old one ends")
    assert openai_client(backend).models.list().data
    answer.check()
    until(lambda: is_gone(ending.pid), "it does not end")


def test_a_gateway_that_cannot_start_says_why(backend: Backend, own: Backend) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        own.environment["SLM_GATEWAY_PORT"] = str(port)
        log = own.folder / "state" / "gateway.log"
        hint = up(own).stderr
        assert hint.startswith("the gateway does not answer yet: ")
        assert "Address already in use" in hint
        assert f"gateway: not running (its log: {log})" in own.slm("status")
    assert f"port {port} on 127.0.0.1 cannot be used (Address already in use); SLM_GATEWAY_PORT chooses another" in (
        log.read_text()
    )
    assert start(backend.environment)[0] == EXIT_RUNNING


def up(backend: Backend) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "slm_operator.cli.main", "up"]
    return subprocess.run(command, env=backend.environment, capture_output=True, text=True, check=True, timeout=60)


def test_up_tells_the_address_and_that_another_port_waits_for_another_gateway(backend: Backend) -> None:
    before = backend.environment["SLM_GATEWAY_PORT"]
    try:
        backend.environment["SLM_GATEWAY_PORT"] = "9"
        done = up(backend)
    finally:
        backend.environment["SLM_GATEWAY_PORT"] = before
    assert f"the gateway answers at {url(backend)}\n" in done.stdout
    assert done.stderr == "it keeps its port for as long as it runs: slm down && slm up takes 9\n"


def start(environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(GATEWAY_COMMAND, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


def test_the_audit_tells_of_each_request_and_of_changes_to_itself(own: Backend) -> None:
    file = own.folder / "audit.jsonl"
    own.environment["SLM_GATEWAY_AUDIT"] = str(file)
    own.slm("up")
    with pytest.raises(openai.NotFoundError):
        openai_client(own).chat.completions.create(model="nobody", messages=QUESTION)
    own.slm("down")
    (line,) = map(json.loads, file.read_text().splitlines())
    assert (line["caller"], line["model"], line["service"], line["status"]) == ("anonymous", "nobody", "", 404)
    assert "1 line, all as written" in own.slm("audit", str(file))
    file.write_text(file.read_text().replace('"nobody"', '"anybody"') * 2)
    assert "does not follow the one before" in own.try_slm("audit", str(file)).stderr


def test_down_leaves_no_gateway_however_early_it_comes(own: Backend) -> None:
    own.slm("up")
    own.slm("down")
    until(lambda: not own.processes(), "a gateway outlives its daemon")
    own.slm("up")
    own.kill_daemon()
    own.slm("down")
    until(lambda: not own.processes(), "a gateway outlives a killed daemon")


def test_a_gateway_without_a_daemon_does_not_start(own: Backend) -> None:
    assert start(own.environment)[0] == EXIT_RUNNING
