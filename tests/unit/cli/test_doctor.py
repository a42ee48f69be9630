"""What `slm doctor` says of the daemon's hub and of the load, and that it says no more than it looked at."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from slm_operator.cli import surroundings
from slm_operator.cli.surroundings import check_hub, check_load, find_refusal, probe
from slm_operator.settings import Settings

CLOSED = "http://127.0.0.1:9"
"""Nobody listens on the port of the discard protocol."""


@contextmanager
def answering(code: int) -> Iterator[str]:
    """A server on loopback that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("code", "problem"),
    [(200, ""), (302, ""), (404, ""), (403, "it refuses (403): see whether"), (503, "it answers with an error (503)")],
)
def test_a_hub_that_answers_is_told_from_one_that_refuses(code: int, problem: str) -> None:
    with answering(code) as endpoint:
        found = probe(endpoint)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.mark.parametrize("endpoint", [CLOSED, "http://[", "ftp://hub"])
def test_a_hub_that_does_not_answer_is_told_with_what_to_do(endpoint: str) -> None:
    assert "it does not answer (" in probe(endpoint)
    assert "set HF_ENDPOINT to a mirror, then slm down and slm up" in probe(endpoint)


def test_an_address_that_the_steps_would_refuse_is_told_before_they_do() -> None:
    assert "set SLM_ALLOW_PRIVATE_HOSTS=127.0.0.1:9," in find_refusal(CLOSED, ())
    assert "SLM_ALLOW_PRIVATE_HOSTS=localhost:9" in find_refusal("http://localhost:9", ("127.0.0.1",))
    for allowed in ("127.0.0.1", "127.0.0.1:9"):
        assert find_refusal(CLOSED, (allowed,)) == ""
    assert find_refusal("https://hub.example", ()) == ""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_home=tmp_path, SLM_HUB_ENDPOINT="http://127.0.0.1:1", allow_private_hosts=("127.0.0.1",))


def test_the_hub_is_the_daemons_and_not_this_shells(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "SLM_ALLOW_PRIVATE_HOSTS": "127.0.0.1, hub.local"}
        command = [sys.executable, "-c", "print(flush=True); input()"]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout
            daemon.stdout.readline()
            monkeypatch.setattr(surroundings, "running_pid", lambda _: daemon.pid)
            found = check_hub(settings)
            daemon.communicate(b"\n")
    whose = "the daemon's, while this shell names http://127.0.0.1:1"
    assert found.text == f"{endpoint} ({whose}), private hosts allowed: 127.0.0.1, hub.local, it answers"
    assert found.mark == "ok"


def test_without_a_daemon_the_shells_hub_is_asked_and_called_so(settings: Settings) -> None:
    found = check_hub(settings)
    assert found.mark == "warn"
    assert found.text.startswith("http://127.0.0.1:1 (this shell's, as no daemon's could be read), private hosts")
    assert "it does not answer" in found.text


def test_load_is_told_with_whose_it_may_be(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "count_cpus", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.2, 1.0, 1.0))
    assert check_load(settings).text.startswith("other work on the CPUs: load 9.2 on 2; ")
    assert check_load(settings).mark == "warn"
    monkeypatch.setattr(surroundings, "find_living", lambda _: ["an engine"])
    assert "work on the CPUs: load 9.2 on 2, 1 of our own processes included" in check_load(settings).text
    monkeypatch.setattr(os, "getloadavg", lambda: (1.9, 9.0, 9.0))
    assert check_load(settings).mark == "ok"
