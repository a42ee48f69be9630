"""What Ollama's clients send, as what engines are asked. Shapes are those of Ollama's own docs/api.md."""

import json
import math
from typing import Any

import pytest

from slm_operator.gateway.ollama import answer_catalog
from slm_operator.gateway.ollama_errors import OllamaError, translate_error
from slm_operator.gateway.ollama_options import parse_keep_alive
from slm_operator.gateway.ollama_request import Shape, parse_document, translate_request

PNG = "iVBORw0KGgo="
JPEG = "/9j/4AAQSkZJRg=="
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "why is the sky blue?"}]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def translate(path: str, document: dict[str, Any], context_size: int = 0) -> Any:
    return translate_request(path, parse_document(json.dumps(document).encode()), context_size)


def chat_with(**more: Any) -> Any:
    return translate("/api/chat", {**CHAT, **more})


def test_a_chat_streams_unless_told_otherwise() -> None:
    call = chat_with()
    assert (call.shape, call.path, call.stream) == (Shape.CHAT, "/v1/chat/completions", True)
    assert call.body == {
        "model": "llama3.2",
        "messages": [{"role": "user", "content": "why is the sky blue?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "stream" not in chat_with(stream=False).body


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_predict": 100}, {"max_tokens": 100}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.9, "top_k": 20, "min_p": 0.1}, {"top_p": 0.9, "top_k": 20, "min_p": 0.1}),
        ({"seed": 101}, {"seed": 101}),
        ({"seed": 101.0}, {"seed": 101}),
        ({"stop": ["\n", "user:"]}, {"stop": ["\n", "user:"]}),
        ({"stop": "user:"}, {"stop": ["user:"]}),
        ({"repeat_penalty": 1.2}, {"repeat_penalty": 1.2, "repetition_penalty": 1.2}),
        ({"presence_penalty": 1.5, "frequency_penalty": 1.0}, {"presence_penalty": 1.5, "frequency_penalty": 1.0}),
        ({"temperature": None}, {}),
    ],
)
def test_options_become_fields(options: dict[str, Any], expected: dict[str, Any]) -> None:
    call = chat_with(options=options, stream=False)
    assert {name: value for name, value in call.body.items() if name not in {"model", "messages"}} == expected
    assert call.notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"seed": True}, 'option "seed" must be of type integer'),
        ({"num_predict": math.nan}, 'option "num_predict" must be of type integer'),
        ({"stop": [1]}, 'option "stop" must be of type array of strings'),
        ({"num_ctx": "8k"}, 'option "num_ctx" must be of type integer'),
        ([], "options must be an object"),
    ],
)
def test_an_option_of_another_type_is_refused_in_ollamas_words(options: Any, message: str) -> None:
    if options == []:
        options = ["temperature"]
    with pytest.raises(OllamaError) as caught:
        chat_with(options=options)
    assert (str(caught.value), caught.value.status) == (message, 400)


def test_what_the_service_decides_is_left_out_and_told() -> None:
    call = translate("/api/chat", {**CHAT, "options": {"num_gpu": 1, "num_thread": 8, "tempature": 1}}, 4096)
    assert call.notes == (
        "options.num_gpu is the service's to decide and was ignored",
        "options.num_thread is the service's to decide and was ignored",
        "options.tempature is not known and was ignored",
    )


def test_a_context_is_told_only_where_the_service_has_less() -> None:
    for wanted, notes in (
        (2048, ()),
        (4096, ()),
        (8192, ("options.num_ctx is 8192, but the service has 4096 tokens: set spec.contextSize for more",)),
    ):
        call = translate("/api/chat", {**CHAT, "options": {"num_ctx": wanted}}, 4096)
        assert call.notes == notes
        assert "num_ctx" not in call.body


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("json", {"type": "json_object"}),
        (SCHEMA, {"type": "json_schema", "json_schema": {"name": "format", "schema": SCHEMA, "strict": True}}),
        ("", None),
        (None, None),
    ],
)
def test_formats(asked: Any, expected: Any) -> None:
    assert chat_with(format=asked).body.get("response_format") == expected


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(OllamaError, match="invalid format: 'yaml'; expected \"json\" or a valid JSON Schema object"):
        chat_with(format="yaml")


@pytest.mark.parametrize(
    ("think", "fields", "shown"),
    [
        (None, {}, True),
        (True, {"chat_template_kwargs": {"enable_thinking": True}}, True),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}, False),
        ("high", {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
def test_thinking(think: Any, fields: dict[str, Any], shown: bool) -> None:  # noqa: FBT001
    call = chat_with(think=think)
    names = {"reasoning_effort", "chat_template_kwargs"}
    assert {name: value for name, value in call.body.items() if name in names} == fields
    assert call.show_thinking == shown


def test_a_level_of_thinking_that_is_none_is_refused() -> None:
    with pytest.raises(OllamaError, match="invalid think value: 'hard'"):
        chat_with(think="hard")


def test_images_become_parts_with_their_type() -> None:
    message = {"role": "user", "content": "what is in this image?", "images": [PNG, JPEG]}
    content = translate("/api/chat", {"model": "llava", "messages": [message]}).body["messages"][0]["content"]
    assert content == [
        {"type": "text", "text": "what is in this image?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}},
    ]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("http://169.254.169.254/latest/meta-data", "messages[0].images[0] is not base64: send the bytes of the image"),
        ("file:///etc/passwd", "messages[0].images[0] is not base64"),
        ("aGVsbG8=", "messages[0].images[0] is none of PNG, JPEG, GIF and WebP"),
        (None, "messages[0].images[0] is not base64"),
    ],
)
def test_an_image_that_is_none_is_refused(image: Any, message: str) -> None:
    with pytest.raises(OllamaError) as caught:
        translate("/api/chat", {"model": "m", "messages": [{"role": "user", "images": [image]}]})
    assert str(caught.value).startswith(message)


def test_tools_go_through_without_what_was_not_set() -> None:
    tool = {"type": "function", "function": {**WEATHER["function"], "description": None}}  # type: ignore[dict-item]
    assert chat_with(tools=[tool]).body["tools"] == [WEATHER]


def test_calls_in_a_history_get_identities_and_answers_find_them() -> None:
    def called(name: str, **arguments: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}}

    messages = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [called("a", x="1"), called("b", x="2"), called("a", x="3")],
        },
        {"role": "tool", "content": "of b", "tool_name": "b"},
        {"role": "tool", "content": "of the first a", "tool_name": "a"},
        {"role": "tool", "content": "of what is left"},
    ]
    translated = translate("/api/chat", {"model": "m", "messages": messages}).body["messages"]
    assert translated[1]["tool_calls"][0] == {
        "id": "call_1_0",
        "type": "function",
        "function": {"name": "a", "arguments": '{"x": "1"}'},
    }
    assert [message.get("tool_call_id") for message in translated[2:]] == ["call_1_1", "call_1_0", "call_1_2"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"messages": []}, "model is required"),
        (
            {"model": "m", "messages": [{"role": "boss"}]},
            "messages[0].role must be one of system, user, assistant, tool",
        ),
        ({"model": "m", "messages": {"role": "user"}}, "messages must be an array"),
        ({"model": "m", "messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content must be a text"),
        (
            {"model": "m", "messages": [{"role": "tool", "content": "x"}]},
            "messages[0] answers no tool call: an assistant's message with tool_calls must come before it",
        ),
        ({"model": "m", "messages": [{"role": "user"}], "tools": [{}]}, "tools: each needs function.name"),
        (
            {"model": "m", "messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].function.name is required",
        ),
    ],
)
def test_a_chat_that_makes_no_sense_says_where(document: dict[str, Any], message: str) -> None:
    with pytest.raises(OllamaError) as caught:
        translate("/api/chat", document)
    assert (str(caught.value), caught.value.status) == (message, 400)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(OllamaError, match="the body"):
        translate_request("/api/chat", parse_document(body))


def test_an_empty_chat_only_loads_or_unloads() -> None:
    for keep_alive, reason in ((None, "load"), ("5m", "load"), (0, "unload"), ("0", "unload"), ("0s", "unload")):
        call = translate("/api/chat", {"model": "m", "messages": [], "keep_alive": keep_alive})
        assert (call.path, call.done_reason) == ("", reason)
        assert translate("/api/generate", {"model": "m", "keep_alive": keep_alive}).done_reason == reason


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), (300, 300.0), (0, 0.0), (-1, math.inf), ("5m", 300.0), ("1h30m", 5400.0), ("300ms", 0.3),
        ("-1s", math.inf), ("1.5h", 5400.0),
    ],
)  # fmt: skip
def test_durations_are_gos(value: Any, seconds: float | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["5", "5 minutes", "m", "", True, [5]])
def test_a_duration_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(OllamaError, match=r"invalid (duration|keep_alive)"):
        parse_keep_alive(value)


def test_generate_is_a_chat_of_one_message() -> None:
    call = translate("/api/generate", {"model": "m:latest", "prompt": "hi", "system": "be brief", "images": [PNG]})
    assert (call.shape, call.path, call.model) == (Shape.GENERATE, "/v1/chat/completions", "m:latest")
    assert call.body["model"] == "m"
    assert call.body["messages"][0] == {"role": "system", "content": "be brief"}
    assert call.body["messages"][1]["content"][0] == {"type": "text", "text": "hi"}


def test_raw_prompts_and_suffixes_are_completions() -> None:
    raw = translate("/api/generate", {"model": "m", "prompt": "[INST] hi [/INST]", "raw": True, "stream": False})
    assert (raw.path, dict(raw.body)) == ("/v1/completions", {"model": "m", "prompt": "[INST] hi [/INST]"})
    filled = translate("/api/generate", {"model": "m", "prompt": "def f(", "suffix": "return 1"})
    assert (filled.path, filled.body["suffix"]) == ("/v1/completions", "return 1")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"template": "{{ .Prompt }}"}, "template is not supported: the model's own template is used"),
        ({"context": [1, 2, 3]}, "context is not supported"),
        ({"raw": True, "system": "x"}, "raw mode and suffix do not go with system or images"),
        ({"prompt": 5}, "prompt must be a text"),
    ],
)
def test_what_cannot_be_kept_of_generate_is_refused_not_lost(more: dict[str, Any], message: str) -> None:
    with pytest.raises(OllamaError, match=message):
        translate("/api/generate", {"model": "m", "prompt": "hi", **more})


def test_embeddings() -> None:
    call = translate("/api/embed", {"model": "m", "input": ["a", "b"], "dimensions": 64, "truncate": True})
    assert (call.path, call.stream) == ("/v1/embeddings", False)
    assert call.body == {"model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 64}
    assert translate("/api/embeddings", {"model": "m", "prompt": "a"}).body["input"] == "a"
    assert translate("/api/embed", {"model": "m", "input": []}).path == ""
    with pytest.raises(OllamaError, match="invalid input type"):
        translate("/api/embed", {"model": "m", "input": [1]})


def test_a_path_that_is_none_is_not_found() -> None:
    with pytest.raises(OllamaError) as caught:
        translate_request("/api/nothing", {})
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/create", 403),
        ("DELETE", "/api/delete", 403),
        ("POST", "/api/blobs/sha256:00", 403),
        ("GET", "/api/chat", 405),
        ("POST", "/api/tags", 405),
        ("GET", "/api/../slots", 404),
        ("POST", "/api/show", 400),
    ],
)
def test_paths_that_change_models_or_do_not_exist_are_refused(method: str, path: str, status: int) -> None:
    answer = answer_catalog(method, path, b"", [])
    assert answer.status == status
    assert list(json.loads(answer.body)) == ["error"]


def test_the_ollama_command_finds_somebody_there() -> None:
    for method in ("GET", "HEAD"):
        assert (answer_catalog(method, "/", b"", []).status, answer_catalog(method, "/", b"", []).body) == (
            200,
            b"Ollama is running",
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "context too long", "type": "invalid_request_error"}}', "context too long"),
        (b'{"error": "busy"}', "busy"),
        (b"<html>secret</html>", "the engine answered with status 500"),
        (b'{"error": {"message": 5}}', "the engine answered with status 500"),
    ],
)
def test_errors_of_engines_become_ollamas(body: bytes, message: str) -> None:
    error = translate_error(500, body)
    assert (json.loads(error.body), error.status) == ({"error": message}, 500)
