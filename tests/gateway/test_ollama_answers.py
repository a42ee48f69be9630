"""Whole answers and the catalogue, in the shapes of Ollama's docs/api.md."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from slm_operator.gateway.ollama import JSON, NDJSON, answer_catalog
from slm_operator.gateway.ollama_answer import Moment, Timing, build_loaded, translate_answer
from slm_operator.gateway.ollama_catalog import Served, format_parameters
from slm_operator.gateway.ollama_errors import OllamaError
from slm_operator.gateway.ollama_request import Call, Shape

NOW = Moment(datetime(2023, 12, 12, 14, 13, 43, 416799, tzinfo=UTC), 9_000)
HEAD = {"model": "llama3.2", "created_at": "2023-12-12T14:13:43.416799Z"}
USAGE = {"prompt_tokens": 26, "completion_tokens": 298}
DIGEST = "a2af6cc3eb7fa8be8504abaf9b04e88f17a119ec3f04a3addf55f92841195f5a"
QWEN = Served(
    "team/qwen3:Q4_K_M",
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    DIGEST,
    2_019_393_189,
    family="qwen3",
    parameters=4_022_468_096,
    quantization="Q4_K_M",
    license="apache-2.0",
    context_size=4096,
    capabilities=("completion", "tools", "thinking"),
    running=True,
    memory_bytes=3_000_000_000,
)
ASLEEP = Served("smol", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), family="llama", parameters=134_515_008)


def answer(shape: Shape, document: Any) -> dict[str, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return translate_answer(Call(shape, "llama3.2", "/v1/x"), body, Timing(begun=1_000, load=500), NOW)


def test_a_chat() -> None:
    message = {"role": "assistant", "content": "Hello!", "reasoning_content": "hm"}
    assert answer(Shape.CHAT, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}) == {
        **HEAD,
        "message": {"role": "assistant", "content": "Hello!", "thinking": "hm"},
        "done": True,
        "done_reason": "stop",
        "total_duration": 8_000,
        "load_duration": 500,
        "prompt_eval_count": 26,
        "eval_count": 298,
        "prompt_eval_duration": 7_500,
        "eval_duration": 0,
    }


def test_a_chat_with_tool_calls() -> None:
    function = {"name": "get_current_weather", "arguments": '{"format": "celsius", "location": "Paris, FR"}'}
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]}
    told = answer(Shape.CHAT, {"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    assert told["done_reason"] == "stop"
    assert told["message"]["content"] == ""
    assert told["message"]["tool_calls"][0]["function"] == {
        "index": 0,
        "name": "get_current_weather",
        "arguments": {"format": "celsius", "location": "Paris, FR"},
    }


def test_a_completion() -> None:
    told = answer(Shape.GENERATE, {"choices": [{"text": "return b", "finish_reason": "length"}]})
    assert (told["response"], told["done_reason"]) == ("return b", "length")
    assert "eval_count" not in told


def test_embeddings_keep_their_order() -> None:
    document = {"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}], "usage": USAGE}
    assert answer(Shape.EMBED, document) == {
        "model": "llama3.2",
        "embeddings": [[1.0], [2.0]],
        "total_duration": 8_000,
        "load_duration": 500,
        "prompt_eval_count": 26,
    }
    assert answer(Shape.EMBEDDINGS, document) == {"embedding": [1.0]}


@pytest.mark.parametrize("document", [b"<html>", {}, {"choices": []}, [], {"choices": [{"message": 5}]}])
def test_an_answer_of_another_form_is_the_engines_fault(document: Any) -> None:
    with pytest.raises(OllamaError, match="the engine's answer is not of OpenAI's form") as caught:
        answer(Shape.CHAT, document)
    assert caught.value.status == 502


def test_a_model_that_is_loaded_or_unloaded() -> None:
    unload = Call(Shape.CHAT, "llama3.2", keep_alive_seconds=0.0)
    assert build_loaded(unload, NOW) == {
        **HEAD,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "unload",
    }
    assert build_loaded(Call(Shape.GENERATE, "llama3.2"), NOW)["done_reason"] == "load"
    assert build_loaded(Call(Shape.EMBED, "llama3.2"), NOW) == {"model": "llama3.2", "embeddings": []}


def ask(method: str, path: str, document: Any = None) -> tuple[int, str, Any]:
    told = answer_catalog(method, path, json.dumps(document or {}).encode(), [QWEN, ASLEEP])
    found = [json.loads(line) for line in told.body.splitlines()]
    return told.status, told.content_type, found if told.content_type == NDJSON else found[0]


def test_tags_list_what_can_be_called() -> None:
    status, kind, told = ask("GET", "/api/tags")
    assert (status, kind) == (200, JSON)
    assert told["models"][0] == {
        "name": "team/qwen3:Q4_K_M",
        "model": "team/qwen3:Q4_K_M",
        "digest": DIGEST,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "qwen3",
            "families": ["qwen3"],
            "parameter_size": "4.0B",
            "quantization_level": "Q4_K_M",
        },
        "modified_at": "2026-01-02T03:04:05.000000Z",
        "size": 2_019_393_189,
    }
    assert [each["name"] for each in told["models"]] == ["team/qwen3:Q4_K_M", "smol"]


def test_processes_list_what_has_an_engine() -> None:
    told = ask("GET", "/api/ps")[2]["models"]
    assert [(each["name"], each["size"], each["size_vram"], each["context_length"]) for each in told] == [
        ("team/qwen3:Q4_K_M", 3_000_000_000, 0, 4096)
    ]


def test_show_tells_a_model() -> None:
    told = ask("POST", "/api/show", {"model": "team/qwen3:Q4_K_M"})[2]
    assert told["capabilities"] == ["completion", "tools", "thinking"]
    assert told["model_info"] == {
        "general.architecture": "qwen3",
        "general.parameter_count": 4_022_468_096,
        "qwen3.context_length": 4096,
    }
    assert ask("POST", "/api/show", {"name": "smol:latest"})[0] == 200


def test_a_model_that_is_not_served_is_not_found_in_ollamas_words() -> None:
    assert ask("POST", "/api/show", {"model": "nope"}) == (404, JSON, {"error": "model 'nope' not found"})


def test_pull_says_that_what_is_served_is_there_and_what_to_do_otherwise() -> None:
    status, kind, told = ask("POST", "/api/pull", {"model": "team/qwen3:Q4_K_M"})
    assert (status, kind) == (200, NDJSON)
    assert [step["status"] for step in told] == ["pulling manifest", "pulling a2af6cc3eb7f", "success"]
    assert ask("POST", "/api/pull", {"model": "smol", "stream": False})[1:] == (JSON, {"status": "success"})
    status, _, error = ask("POST", "/api/pull", {"model": "llama3.2"})
    assert status == 404
    assert error["error"].endswith("llama3.2 is not served here: apply an SLMModel and an InferenceService for it")


def test_the_version_is_one_that_clients_compare() -> None:
    told = ask("GET", "/api/version")[2]["version"]
    assert [int(part) for part in told.split(".")] >= [0, 9, 0]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (134_515_008, "134.52M"), (1_235_814_432, "1.2B"), (8_030_261_248, "8.0B"), (405_000_000_000, "405B")],
)
def test_parameters_are_written_as_ollama_does(count: int, text: str) -> None:
    assert format_parameters(count) == text
