"""What a real vLLM, on CPUs, loads beside a model: adapters, of which a request names one, and a draft model."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.local.gateway_support import QUESTION, apply, engines, url
from tests.local.test_adapters import FIRST, SECOND, SERVICE, adapter, ask, offered
from tests.local.test_companions import draft
from tests.local.test_vllm import ARGUMENTS, find_vllm
from tests.support.adapters import write_adapter
from tests.support.backend import Backend, local_backend, until
from tests.support.models import write_model

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A service of vLLM with two adapters of different ranks."""
    program, folder = find_vllm(), tmp_path_factory.mktemp("adapters")
    model = write_model(folder / "model", seed=3, dtype="f32")
    (model / "generation_config.json").write_text('{"min_p": 0.1}', encoding="utf-8")
    write_adapter(folder / "first", model, seed=1, rank=4)
    write_adapter(folder / "second", model, seed=2, rank=12)
    write_model(folder / "close", seed=3, dtype="f16")
    write_model(folder / "foreign", seed=3, tokenizer="pieces", vocab=640)
    write_adapter(folder / "wide", write_model(folder / "wider", hidden=512, dtype="f32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_VLLM", str(program))
        with local_backend(folder, gateway=True) as backend:
            serve(backend, "first", "second")
            backend.wait_ready("slmsvc", SERVICE)
            until(lambda: SECOND in offered(backend), "the adapters are not offered", 30)
            yield backend


def serve(backend: Backend, *adapters: str, **spec: Any) -> None:
    named = [adapter(backend, name) for name in adapters]
    apply(backend, runtime="vllm", contextSize=512, extraArgs=ARGUMENTS, adapters=named, **spec)


def test_each_name_gets_its_own_answer_whoever_asked_before(backend: Backend) -> None:
    plain, first, second = answers = [ask(backend, name) for name in (SERVICE, FIRST, SECOND)]
    assert len(set(answers)) == 3
    names = (SECOND, SERVICE, FIRST, FIRST, SECOND, SERVICE)
    assert [ask(backend, name) for name in names] == [second, plain, first, first, second, plain]
    assert ask(backend, f"default/{FIRST}") == ask(backend, "tiny:first") == first
    assert offered(backend) == [SERVICE, FIRST, SECOND]


def test_anthropics_api_takes_an_adapter_too(backend: Backend) -> None:
    def write(model: str) -> str:
        body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0}
        answer = httpx.post(f"{url(backend)}/v1/messages", json=body, timeout=60).raise_for_status().json()
        return str(answer["content"])

    assert write(FIRST) != write(SERVICE)
    assert write(FIRST) == write(FIRST)


def test_an_adapter_of_another_model_is_refused_and_the_engine_goes_on(backend: Backend) -> None:
    before = [each["metadata"]["name"] for each in engines(backend)]
    serve(backend, "first", "wide")
    until(
        lambda: "name the model that the adapter was trained on." in backend.slm("describe", "slmsvc", SERVICE),
        "it is not refused",
        60,
    )
    assert [each["metadata"]["name"] for each in engines(backend)] == before
    assert ask(backend, SECOND) != ask(backend, SERVICE)


def test_the_text_is_the_same_and_the_draft_model_wrote_most_of_it(backend: Backend) -> None:
    plain, before = ask(backend, SERVICE), engines(backend)[0]["metadata"]["name"]
    serve(backend, speculative=draft(backend, "foreign"))
    until(
        lambda: (
            "The draft model does not speak in the served model's tokens" in backend.slm("describe", "slmsvc", SERVICE)
        ),
        "it is not refused",
        60,
    )
    assert engines(backend)[0]["metadata"]["name"] == before
    serve(backend, speculative=draft(backend, "close"))
    until(lambda: all(each["metadata"]["name"] != before for each in engines(backend)), "no roll", 180)
    backend.wait_ready("slmsvc", SERVICE)
    assert ask(backend, SERVICE) == plain
    metrics = httpx.get(f"http://127.0.0.1:{engines(backend)[0]['status']['port']}/metrics", timeout=10).text
    proposed, kept = (counted(metrics, f"vllm:spec_decode_num_{name}_tokens_total") for name in ("draft", "accepted"))
    # The draft model is the served one in another number format: it nearly always proposes what is written then.
    assert kept > proposed / 2 > 0
    # With drafts vLLM refuses min_p, also where the model's own settings have it.
    body = {"model": SERVICE, "messages": QUESTION, "max_tokens": 8, "temperature": 0.5}
    httpx.post(f"{url(backend)}/v1/chat/completions", json=body, timeout=60).raise_for_status()


def counted(metrics: str, name: str) -> float:
    (line,) = [line for line in metrics.splitlines() if line.startswith(name + "{")]
    return float(line.split()[-1])
