"""What a real engine loads beside a model: a draft model that proposes the same text, a projector that reads images."""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.local.gateway_support import QUESTION, apply, engines, openai_client, url
from tests.support.backend import Backend, local_backend, until
from tests.support.models import write_model
from tests.support.projector import IMAGE_PIXELS, write_projector

TOKENS = 48


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("speculative")
    write_model(folder / "model", seed=3)
    write_model(folder / "close", seed=3, dtype="f16")
    write_model(folder / "foreign", seed=3, tokenizer="pieces", vocab=640)
    (folder / "projector").mkdir()
    write_projector(folder / "projector" / "mmproj.gguf", 256)
    with local_backend(folder, gateway=True) as backend:
        apply(backend)
        backend.wait_ready("slmsvc", "tiny-service")
        yield backend


def add_model(backend: Backend, name: str) -> dict[str, str]:
    """An SLMModel of that name; answers what names it."""
    source = {"source": {"path": str(backend.folder / name)}}
    backend.apply({"apiVersion": "slm.dev/v1alpha1", "kind": "SLMModel", "metadata": {"name": name}, "spec": source})
    return {"name": name}


def draft(backend: Backend, name: str) -> dict[str, Any]:
    return {"draftModelRef": add_model(backend, name), "maxDraftTokens": 4}


def names(backend: Backend) -> set[str]:
    """Of the engines."""
    return {each["metadata"]["name"] for each in engines(backend)}


def wait_replaced(backend: Backend, before: set[str]) -> dict[str, Any]:
    """The service once other engines answer for it."""
    until(lambda: names(backend) and not before & names(backend), "no roll", 60)
    return backend.wait_ready("slmsvc", "tiny-service")


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
    before = names(backend)
    apply(backend, speculative=draft(backend, "close"))
    status = wait_replaced(backend, before)["status"]
    drafted, timings = ask(backend)
    assert drafted == alone
    # The draft model is the served one in another number format: it nearly always proposes what is written then.
    assert timings["draft_n_accepted"] > TOKENS / 2
    (known,) = status["companions"]
    assert known["role"] == "draft"
    assert known["digest"].removeprefix("sha256:") in str(engines(backend)[0]["spec"])


def test_other_tokens_are_refused_and_the_engine_goes_on(backend: Backend) -> None:
    before = names(backend)
    apply(backend, speculative=draft(backend, "foreign"))

    def refused() -> bool:
        conditions = backend.get("slmsvc", "tiny-service")["status"]["conditions"]
        return any((each["type"], each["reason"]) == ("Ready", "VocabularyMismatch") for each in conditions)

    until(refused, "it is not refused", 60)
    (ready,) = (
        each for each in backend.get("slmsvc", "tiny-service")["status"]["conditions"] if each["type"] == "Ready"
    )
    assert "its tokenizer is of the kind llama, not gpt2" in ready["message"]
    assert names(backend) == before
    assert ask(backend)[1]["draft_n"] > 0


def picture(red: int, green: int, blue: int) -> str:
    """A PNG of one colour, as a data: URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes((red, green, blue)) * IMAGE_PIXELS) * IMAGE_PIXELS
    head = struct.pack(">IIBBBBB", IMAGE_PIXELS, IMAGE_PIXELS, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def look(backend: Backend, url: str) -> str:
    """A greedy answer about an image."""
    content: list[Any] = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = openai_client(backend).chat.completions.create(
        model="tiny-service", messages=[{"role": "user", "content": content}], max_tokens=12, temperature=0
    )
    return answer.choices[0].message.content or ""


def test_with_a_projector_an_answer_depends_on_the_image(backend: Backend) -> None:
    before = names(backend)
    apply(backend, projectorRef=add_model(backend, "projector"))
    status = wait_replaced(backend, before)["status"]
    assert [each["role"] for each in status["companions"]] == ["projector"]
    red, blue = look(backend, picture(255, 0, 0)), look(backend, picture(0, 0, 255))
    assert red != blue
    assert look(backend, picture(255, 0, 0)) == red
    for path in ("/api/chat", "/v1/messages", "/v1/responses"):
        answers = {post_image(backend, path, picture(*colour)) for colour in ((255, 0, 0), (0, 0, 255), (255, 0, 0))}
        assert (path, len(answers)) == (path, 2)


def post_image(backend: Backend, path: str, image: str) -> str:
    """The same by another API."""
    data, text = image.partition(",")[2], "What?"
    source = {"type": "base64", "media_type": "image/png", "data": data}
    bodies: dict[str, dict[str, Any]] = {
        "/api/chat": {"content": text, "images": [data]},
        "/v1/messages": {"content": [{"type": "image", "source": source}, {"type": "text", "text": text}]},
        "/v1/responses": {
            "content": [{"type": "input_image", "image_url": image}, {"type": "input_text", "text": text}]
        },
    }
    name = "input" if path == "/v1/responses" else "messages"
    greedy = {"temperature": 0, "max_tokens": 12, "options": {"temperature": 0, "num_predict": 12}, "stream": False}
    request = {"model": "tiny-service", name: [{"role": "user", **bodies[path]}], **greedy}
    answer = httpx.post(url(backend) + path, json=request, timeout=60).json()
    if path == "/api/chat":
        return str(answer["message"]["content"])
    content = answer["content"] if path == "/v1/messages" else answer["output"][-1]["content"]
    return str(content[-1]["text"])
