"""Vectors and orders of documents from real engines, by the service's task."""

import math
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest

from tests.local.gateway_support import QUESTION, apply, engines, openai_client, tiny_service, url
from tests.support.backend import Backend, until
from tests.support.ranking import write_reranker

TEXTS = ["a cat", "a dog", "a cat"]
LONG = "word " * 300
"""More tokens than llama.cpp computes at once unless it is told to."""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with tiny_service(tmp_path_factory.mktemp("tasks"), task="embed", extraArgs=["--pooling", "last"]) as backend:
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


def test_a_model_that_ranks_orders_documents(backend: Backend) -> None:
    write_reranker(backend.folder / "reranker", backend.folder / "scratch")
    common = {"apiVersion": "slm.dev/v1alpha1"}
    source = {"source": {"path": str(backend.folder / "reranker")}}
    spec = {"modelRef": {"name": "ranks"}, "contextSize": 512, "task": "rerank"}
    backend.apply(
        common | {"kind": "SLMModel", "metadata": {"name": "ranks"}, "spec": source},
        common | {"kind": "InferenceService", "metadata": {"name": "ranker"}, "spec": spec},
    )
    backend.wait_ready("slmsvc", "ranker")
    body = {"model": "ranker", "query": "cat", "documents": TEXTS}
    answer = openai_client(backend).post("/rerank", cast_to=object, body=body)
    scores = {each["index"]: each["relevance_score"] for each in answer["results"]}  # type: ignore[index]
    assert [each["index"] for each in answer["results"]] == sorted(scores, key=lambda each: -scores[each])  # type: ignore[index]
    assert scores[0] == pytest.approx(scores[2], abs=1e-4)
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
    assert all(0 < score < 1 for score in scores.values())
    with pytest.raises(openai.BadRequestError, match=r"spec\.task"):
        openai_client(backend).chat.completions.create(model="ranker", messages=QUESTION, max_tokens=2)
