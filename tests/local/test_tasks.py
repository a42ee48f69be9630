"""Vectors and orders of documents from real engines, by the service's task."""

import math
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest

from tests.local.gateway_support import QUESTION, apply, engines, openai_client, url
from tests.support.backend import Backend, local_backend, until
from tests.support.models import write_model

TEXTS = ["a cat", "a dog", "a cat"]
LONG = "word " * 300
"""More tokens than llama.cpp computes at once unless it is told to."""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("tasks")
    write_model(folder / "model")
    with local_backend(folder, gateway=True) as backend:
        apply(backend, task="embed", extraArgs=["--pooling", "last"])
        backend.wait_ready("slmsvc", "tiny-service")
        yield backend


def length(vector: list[float]) -> float:
    return math.sqrt(sum(each * each for each in vector))


def test_openais_client_gets_vectors_of_texts_long_and_short(backend: Backend) -> None:
    client = openai_client(backend)
    answer = client.embeddings.create(model="tiny", input=[*TEXTS, LONG], encoding_format="float")
    vectors = [each.embedding for each in answer.data]
    assert [each.index for each in answer.data] == [0, 1, 2, 3]
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-3)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
    assert [length(each) for each in vectors] == pytest.approx([1.0] * 4, abs=1e-3)
    assert answer.usage.prompt_tokens > 512


def test_ollamas_client_gets_the_same(backend: Backend) -> None:
    ours = openai_client(backend).embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    theirs = ollama.Client(host=url(backend)).embed("tiny", TEXTS)
    for one, other in zip(ours.data, theirs.embeddings, strict=True):
        assert one.embedding == pytest.approx(list(other), abs=1e-3)


def test_what_the_engine_was_not_started_for_says_where_that_is_said(backend: Backend) -> None:
    client = openai_client(backend)
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/rerank", cast_to=object, body={"model": "tiny", "query": "cat", "documents": TEXTS})
    assert (refused.value.status_code, refused.value.code) == (400, "wrong_task")
    assert "spec.task" in refused.value.message


def words(document: Any) -> list[str]:
    return list(document["spec"]["containers"][0]["command"])


def test_another_task_replaces_the_engine(backend: Backend) -> None:
    apply(backend, task="generate")
    until(lambda: engines(backend) and not any("--embeddings" in words(each) for each in engines(backend)), "no roll")
    backend.wait_ready("slmsvc", "tiny-service")
    client = openai_client(backend)
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2)
    assert answer.usage
    with pytest.raises(openai.BadRequestError, match=r"spec\.task"):
        client.embeddings.create(model="tiny", input="a")


def test_a_service_that_ranks_is_started_for_that(backend: Backend) -> None:
    apply(backend, task="rerank")
    until(lambda: any("--reranking" in words(each) for each in engines(backend)), "no engine that ranks")
