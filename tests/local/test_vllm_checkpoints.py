"""A real vLLM, on CPUs, serves what nothing here converts: other architectures, and weights quantized before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.local.gateway_support import QUESTION, apply, openai_client
from tests.local.test_vllm import ARGUMENTS, find_vllm
from tests.support.backend import local_backend, until
from tests.support.models import write_model
from tests.support.quantized import write_int8

pytestmark = pytest.mark.vllm
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QUANT_JOB: dict[str, Any] = {
    "apiVersion": "slm.dev/v1alpha1",
    "kind": "QuantJob",
    "metadata": {"name": "q"},
    "spec": {"modelRef": {"name": "tiny"}, "variants": ["Q8_0"]},
}


def write_mistral(folder: Path) -> Path:
    return write_model(folder, config=MISTRAL)


@pytest.mark.parametrize(
    ("write", "format_", "why"),
    [
        (write_mistral, "safetensors", "MistralForCausalLM cannot be converted: use one of LlamaForCausalLM"),
        (write_int8, "compressed-tensors", "The weights are quantized already (`quantization_config`)"),
    ],
)
def test_vllm_answers_from_a_checkpoint_that_is_refused_as_a_job_and_to_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path], format_: str, why: str
) -> None:
    monkeypatch.setenv("SLM_VLLM", str(find_vllm()))
    write(tmp_path / "model")
    with local_backend(tmp_path, gateway=True) as backend:
        apply(backend, runtime="vllm", contextSize=512, extraArgs=ARGUMENTS)
        backend.apply(QUANT_JOB)
        model = backend.wait_ready("slm", "tiny")
        assert model["status"]["format"] == format_
        assert why in backend.slm("describe", "slm", "tiny")
        backend.wait_ready("slmsvc", "tiny-service")
        answer = openai_client(backend).chat.completions.create(model="tiny-service", messages=QUESTION, max_tokens=8)
        assert answer.usage
        assert answer.usage.completion_tokens
        job = {each["type"]: each for each in backend.get("quantjob", "q")["status"]["conditions"]}["Stalled"]
        assert (job["status"], job["reason"]) == ("True", "NotConvertible")
        assert job["message"].startswith(f"No variant can be made of SLMModel tiny, which vllm alone serves. {why}")
        apply(backend, runtime="auto", contextSize=512)
        only = "vllm alone serves this model: it needs a GPU, or spec.runtime vllm where it is installed for CPUs."
        until(
            lambda: only in backend.slm("describe", "slmsvc", "tiny-service"),
            "auto is not refused with what to ask for",
        )
