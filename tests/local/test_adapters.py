"""LoRA adapters beside a real engine: each request gets the one that its model's name says, or none."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.local.gateway_support import QUESTION, LongAnswer, apply, engines, openai_client, url
from tests.support.adapters import write_adapter
from tests.support.backend import Backend, local_backend, until
from tests.support.models import write_model

SERVICE = "tiny-service"
FIRST, SECOND = f"{SERVICE}:first", f"{SERVICE}:second"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("adapters")
    model = write_model(folder / "model", seed=3, dtype="f32")
    wider = write_model(folder / "wider", hidden=512, dtype="f32")
    for seed, (name, base) in enumerate({"first": model, "second": model, "wide": wider}.items()):
        write_adapter(folder / name, base, seed=seed)
    with local_backend(folder, gateway=True) as backend:
        apply(backend, adapters=[adapter(backend, "first")])
        backend.wait_ready("slmsvc", SERVICE)
        until(lambda: FIRST in offered(backend), "the adapter is not offered", 30)
        yield backend


def adapter(backend: Backend, name: str) -> dict[str, Any]:
    """An SLMModel of that name; answers what names it."""
    source = {"source": {"path": str(backend.folder / name)}}
    backend.apply({"apiVersion": "slm.dev/v1alpha1", "kind": "SLMModel", "metadata": {"name": name}, "spec": source})
    return {"name": name, "modelRef": {"name": name}}


def ask(backend: Backend, model: str) -> str:
    """A greedy answer."""
    answer = openai_client(backend).chat.completions.create(
        model=model, messages=QUESTION, max_tokens=16, temperature=0, logprobs=True, extra_body={"ignore_eos": True}
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    return " ".join(each.token for each in logprobs.content)


def offered(backend: Backend) -> list[str]:
    return [each.id.removeprefix("default/") for each in openai_client(backend).models.list()]


def test_each_name_gets_its_own_answer_whoever_asked_before(backend: Backend) -> None:
    plain, adapted = ask(backend, SERVICE), ask(backend, FIRST)
    assert plain != adapted
    assert [ask(backend, name) for name in (SERVICE, FIRST, FIRST, SERVICE)] == [plain, adapted, adapted, plain]
    assert ask(backend, f"default/{FIRST}") == ask(backend, "tiny:first") == adapted


def test_an_answer_through_ollamas_api_is_the_adapters(backend: Backend) -> None:
    def generate(model: str) -> str:
        options = {"temperature": 0, "num_predict": 16}
        body = {"model": model, "messages": QUESTION, "stream": False, "options": options}
        return str(httpx.post(f"{url(backend)}/api/chat", json=body, timeout=60).raise_for_status().json()["message"])

    assert generate(FIRST) != generate(SERVICE)
    tags = httpx.get(f"{url(backend)}/api/tags").json()["models"]
    assert [each["name"] for each in tags] == [SERVICE, FIRST]


def test_an_api_in_which_engines_take_no_adapter_is_refused(backend: Backend) -> None:
    body = {"model": SERVICE, "messages": QUESTION, "max_tokens": 4}
    answer = httpx.post(f"{url(backend)}/v1/messages", json=body, timeout=60)
    assert answer.status_code == 400
    assert "A model with adapters is not served as /v1/messages" in answer.json()["error"]["message"]


def test_a_client_does_not_choose_by_number(backend: Backend) -> None:
    with pytest.raises(openai.BadRequestError, match="The field 'lora' is not taken: the model's name chooses"):
        openai_client(backend).chat.completions.create(
            model=SERVICE, messages=QUESTION, extra_body={"lora": [{"id": 0, "scale": 1}]}
        )


def test_an_adapter_of_another_model_is_refused_and_the_engine_goes_on(backend: Backend) -> None:
    before = [each["metadata"]["name"] for each in engines(backend)]
    apply(backend, adapters=[adapter(backend, "first"), adapter(backend, "wide")])

    def ready() -> dict[str, Any]:
        conditions = backend.get("slmsvc", SERVICE)["status"]["conditions"]
        return next(each for each in conditions if each["type"] == "Ready")

    until(lambda: ready()["reason"] == "AdapterMismatch", "it is not refused", 60)
    assert "name the model that the adapter was trained on." in ready()["message"]
    assert [each["metadata"]["name"] for each in engines(backend)] == before
    assert ask(backend, FIRST) != ask(backend, SERVICE)
    assert offered(backend) == [SERVICE, FIRST]


def test_an_adapter_is_added_while_answers_are_under_way_and_none_fails(backend: Backend) -> None:
    plain, adapted = ask(backend, SERVICE), ask(backend, FIRST)
    long = LongAnswer(backend)
    apply(backend, adapters=[adapter(backend, "second"), adapter(backend, "first")])

    def is_there() -> bool:
        assert [ask(backend, SERVICE), ask(backend, FIRST)] == [plain, adapted]
        return SECOND in offered(backend)

    until(is_there, "the second adapter is not offered", 120)
    long.check()
    assert [ask(backend, SERVICE), ask(backend, FIRST)] == [plain, adapted]
    assert ask(backend, SECOND) not in (plain, adapted)
