"""A service of a tiny model behind the local gateway, and answers that take a while."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import openai

from slm_operator.local.gateway_keeper import gateway_url
from tests.support.backend import Backend, local_backend
from tests.support.models import write_model

LONG_TOKENS = 800
QUESTION: list[Any] = [{"role": "user", "content": "Count."}]


def apply(backend: Backend, **spec: Any) -> None:
    """A model, and a service of it with this spec."""
    common = {"apiVersion": "slm.dev/v1alpha1"}
    source = {"source": {"path": str(backend.folder / "model")}}
    model = {"kind": "SLMModel", "metadata": {"name": "tiny"}, "spec": source}
    spec = {"modelRef": {"name": "tiny"}, "contextSize": 2048, **spec}
    service = {"kind": "InferenceService", "metadata": {"name": "tiny-service"}, "spec": spec}
    backend.apply(common | model, common | service)


@contextmanager
def tiny_service(folder: Path, namespace: str = "default", **spec: Any) -> Iterator[Backend]:
    """A backend with its gateway, and a service of a tiny model with this spec, once it is Ready."""
    write_model(folder / "model")
    with local_backend(folder, gateway=True, namespace=namespace) as backend:
        apply(backend, **spec)
        backend.wait_ready("slmsvc", "tiny-service")
        yield backend


def url(backend: Backend) -> str:
    return gateway_url(backend.gateway())


def openai_client(backend: Backend) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url(backend)}/v1", api_key="none", max_retries=0, timeout=120)


class LongAnswer:
    """An answer that takes seconds, read by a thread from its first piece on."""

    def __init__(self, backend: Backend, tokens: int = LONG_TOKENS) -> None:
        self._wanted = tokens
        client = openai_client(backend)
        self._stream = client.chat.completions.create(
            model="tiny-service",
            messages=QUESTION,
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        self.tokens, self.problem = 0, ""
        next(iter(self._stream))
        self._thread = Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._stream:
                if event.usage:
                    self.tokens = event.usage.completion_tokens
        except openai.OpenAIError as error:
            self.problem = repr(error)

    def wait(self) -> None:
        """Until its end."""
        self._thread.join(400)  # Two engines of two threads each on two CPUs are that slow.

    def check(self) -> None:
        """It must be whole."""
        self.wait()
        assert (self.problem, self.tokens) == ("", self._wanted)


def engines(backend: Backend) -> list[Any]:
    found: list[Any] = json.loads(backend.slm("get", "pods", "-o", "json"))["items"]
    return [each for each in found if each["metadata"]["labels"].get("slm.dev/step") == "serve"]
