"""A draft model beside a real engine: the same text, proposed by another model."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.local.gateway_support import QUESTION, apply, engines, openai_client
from tests.support.backend import Backend, local_backend, until
from tests.support.models import write_model

TOKENS = 48


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("speculative")
    write_model(folder / "model", seed=3)
    write_model(folder / "close", seed=3, dtype="f16")
    write_model(folder / "foreign", seed=3, tokenizer="pieces", vocab=640)
    with local_backend(folder, gateway=True) as backend:
        apply(backend)
        backend.wait_ready("slmsvc", "tiny-service")
        yield backend


def draft(backend: Backend, name: str) -> dict[str, Any]:
    """An SLMModel of that name; answers what names it."""
    source = {"source": {"path": str(backend.folder / name)}}
    backend.apply({"apiVersion": "slm.dev/v1alpha1", "kind": "SLMModel", "metadata": {"name": name}, "spec": source})
    return {"draftModelRef": {"name": name}, "maxDraftTokens": 4}


def ask(backend: Backend) -> tuple[str, dict[str, Any]]:
    """A greedy answer, and what the engine tells of its time."""
    answer = openai_client(backend).chat.completions.create(
        model="tiny-service", messages=QUESTION, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    return answer.choices[0].message.content or "", (answer.model_extra or {})["timings"]


def test_the_text_is_the_same_and_the_draft_model_wrote_most_of_it(backend: Backend) -> None:
    alone, timings = ask(backend)
    assert "draft_n" not in timings
    before = {each["metadata"]["name"] for each in engines(backend)}
    apply(backend, speculative=draft(backend, "close"))
    until(
        lambda: engines(backend) and not before & {each["metadata"]["name"] for each in engines(backend)}, "no roll", 60
    )
    status = backend.wait_ready("slmsvc", "tiny-service")["status"]
    drafted, timings = ask(backend)
    assert drafted == alone
    # The draft model is the served one in another number format: it nearly always proposes what is written then.
    assert timings["draft_n_accepted"] > TOKENS / 2
    (known,) = status["companions"]
    assert (known["role"], known["digest"] in str(engines(backend)[0]).replace("/sha256/", "/sha256:")) == (
        "draft",
        True,
    )


def test_other_tokens_are_refused_and_the_engine_goes_on(backend: Backend) -> None:
    before = [each["metadata"]["name"] for each in engines(backend)]
    apply(backend, speculative=draft(backend, "foreign"))

    def refused() -> bool:
        conditions = backend.get("slmsvc", "tiny-service")["status"]["conditions"]
        return any((each["type"], each["reason"]) == ("Ready", "VocabularyMismatch") for each in conditions)

    until(refused, "it is not refused", 60)
    (ready,) = (
        each for each in backend.get("slmsvc", "tiny-service")["status"]["conditions"] if each["type"] == "Ready"
    )
    assert "its tokenizer is of the kind llama, not gpt2" in ready["message"]
    assert [each["metadata"]["name"] for each in engines(backend)] == before
    assert ask(backend)[1]["draft_n"] > 0
