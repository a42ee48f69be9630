"""A real vLLM, on CPUs, behind the gateway: chosen by a manifest, started from the store, asked by clients."""

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import psutil
import pytest

from dev.vllm import install
from tests.local.gateway_support import QUESTION, LongAnswer, apply, engines, openai_client, url
from tests.support.backend import Backend, local_backend
from tests.support.models import write_model

pytestmark = pytest.mark.vllm
ARGUMENTS = ["--enforce-eager"]
"""Compiling for a model of a few hundred kilobytes takes longer than all of its answers."""
DEVELOPMENT = {
    *("/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/reset_prefix_cache", "/server_info", "/pause"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/update_weights", "/start_profile", "/abort_requests"),
}
"""Routes of vLLM that change the engine, or tell of it, and ask nobody who calls: it is started without them."""
ALWAYS = {"/scale_elastic_ep", "/inference/v1/abort_requests", "/tokenize", "/version", "/metrics", "/invocations"}
"""Routes that it always has, and that are no client's."""
SCHEMA = {"type": "string", "enum": ["yes", "no"]}


def find_vllm() -> Path:
    """The one that is named or on PATH, else the one that ``make test`` installs; skips where there is none."""
    if found := os.environ.get("SLM_VLLM") or shutil.which("vllm"):
        return Path(found)
    if not install.is_installed():
        pytest.skip(f"vLLM is not installed: {install.problem() or 'make prepared does it'}")
    return install.program()


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A model and a service that vLLM answers for."""
    program, folder = find_vllm(), tmp_path_factory.mktemp("vllm")
    # Large enough that a long answer takes ten seconds, in which its engine can be killed.
    write_model(folder / "model", family="qwen3", hidden=1024, layers=6, intermediate=4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_VLLM", str(program))
        with local_backend(folder, gateway=True) as backend:
            apply(backend, runtime="vllm", extraArgs=ARGUMENTS)
            backend.wait_ready("slmsvc", "tiny-service")
            yield backend


def test_the_service_says_what_serves_it_and_from_where(backend: Backend) -> None:
    status = backend.get("slmsvc", "tiny-service")["status"]
    assert (status["runtime"], status["runtimeMessage"]) == ("vllm", "vllm: spec.runtime asks for it.")
    assert status["digest"] == backend.get("slm", "tiny")["status"]["digest"]
    (engine,) = engines(backend)
    folder = Path(engine["spec"]["containers"][0]["command"][2])
    assert folder == backend.store / "snapshots" / "sha256" / status["digest"].removeprefix("sha256:")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in (backend.folder / "model").iterdir() if (folder / path.name).exists()
    }


def test_openais_client_gets_answers_streams_and_json(backend: Backend) -> None:
    client = openai_client(backend)
    assert [each.id for each in client.models.list()] == ["default/tiny-service"]
    whole = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=8, extra_body={"ignore_eos": True}
    )
    assert whole.usage
    assert whole.usage.completion_tokens == 8
    pieces = client.completions.create(model="tiny", prompt="Once", max_tokens=5, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices)
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    bound = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=64, temperature=0, response_format=form
    )
    assert json.loads(bound.choices[0].message.content or "") in {"yes", "no"}
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="tiny", prompt="word " * 5000, max_tokens=5)


def test_ollamas_client_is_answered_too(backend: Backend) -> None:
    client = ollama.Client(host=url(backend))
    parts = list(client.chat("tiny", QUESTION, stream=True, options={"num_predict": 4, "temperature": 0}))
    assert parts[-1].done
    assert parts[-1].eval_count


def test_neither_gateway_nor_engine_has_the_routes_that_change_an_engine(backend: Backend) -> None:
    client = openai_client(backend)
    for path in DEVELOPMENT | ALWAYS:
        with pytest.raises(openai.NotFoundError):
            client.post(path.removeprefix("/v1"), cast_to=object, body={})
    (engine,) = engines(backend)
    with urllib.request.urlopen(f"http://127.0.0.1:{engine['status']['port']}/openapi.json", timeout=10) as answer:
        routes = json.load(answer)["paths"]
    assert "/v1/chat/completions" in routes
    assert not DEVELOPMENT & set(routes)


def test_an_answer_outlives_its_engine(backend: Backend) -> None:
    (engine,) = engines(backend)
    launcher = psutil.Process(engine["status"]["processId"])
    processes = [each for each in launcher.children(recursive=True) if "vllm" in " ".join(each.cmdline()).lower()]
    assert processes
    answer = LongAnswer(backend)
    for process in processes:
        process.kill()
    answer.check()
    assert "goes on with another engine" in (backend.folder / "state" / "gateway.log").read_text()


def test_arguments_that_run_a_models_own_code_are_refused(backend: Backend) -> None:
    service = backend.get("slmsvc", "tiny-service")
    spec = {**service["spec"], "extraArgs": ["--trust-remote-code"]}
    kept = {name: service[name] for name in ("apiVersion", "kind")}
    document = {**kept, "metadata": {"name": "tiny-service"}, "spec": spec}
    refused = backend.try_slm("apply", "-f", "-", stdin=json.dumps(document))
    assert refused.returncode != 0
    assert "spec.extraArgs must not hold --trust-remote-code" in refused.stderr
