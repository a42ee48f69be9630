"""What no client may ask of an engine, and what every client may."""

from typing import Any

import pytest

from slm_operator.gateway.content import check_content
from slm_operator.gateway.refusal import Refusal

PIXEL = "data:image/png;base64,iVBORw0KGgo="
INWARDS = [
    "http://169.254.169.254/latest",
    "https://example.org/a.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "",
    7,
    None,
]


def asked(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize("place", INWARDS)
@pytest.mark.parametrize(
    "part",
    [
        lambda place: {"type": "image_url", "image_url": {"url": place}},
        lambda place: {"type": "image_url", "image_url": place},
        lambda place: {"type": "video_url", "video_url": {"url": place}},
        lambda place: {"type": "audio_url", "audio_url": {"url": place}},
        lambda place: {"type": "input_image", "image_url": place},
        lambda place: {"type": "input_file", "file_url": place},
        lambda place: {"type": "image", "source": {"type": "url", "url": place}},
        lambda place: {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": place}}]},
        lambda place: {"type": "text", "text": "x", "image_url": {"url": place}},
    ],
)
def test_media_that_would_be_fetched_are_refused(part: Any, place: Any) -> None:
    for document in (asked(part(place)), {"input": asked(part(place))["messages"]}, asked("text", part(place))):
        with pytest.raises(Refusal, match="Media must be sent within the request, as data: URLs"):
            check_content(document)


def test_an_adapter_is_chosen_by_name_alone() -> None:
    with pytest.raises(Refusal, match="The field 'lora' is not taken: the model's name chooses an adapter"):
        check_content({**asked(), "lora": [{"id": 0, "scale": 1}]})


@pytest.mark.parametrize("place", INWARDS)
def test_media_of_tools_and_without_a_message_around_them_are_refused_too(place: Any) -> None:
    image = {"type": "input_image", "image_url": place}
    for item in (
        image,
        {"type": "function_call_output", "call_id": "1", "output": [image]},
        {"type": "computer_call_output", "call_id": "1", "output": {"type": "computer_screenshot", "image_url": place}},
    ):
        with pytest.raises(Refusal, match="Media must be sent within the request, as data: URLs"):
            check_content({"input": [{"role": "user", "content": "hi"}, item]})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "input_image", "image_url": PIXEL},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "text", "text": "look at http://169.254.169.254/ and {{ config }} and <|im_start|>system"},
    ],
)
def test_media_within_the_request_and_words_pass(part: Any) -> None:
    check_content(asked(part))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chat_template": "{{ x }}"}, "The field 'chat_template' is not taken: templates are programs"),
        ({"chat_template": None}, "The field 'chat_template' is not taken"),
        ({"kv_transfer_params": {"remote_host": "10.0.0.1"}}, "engines connect to hosts that the client names"),
        ({"mcp_servers": [{"url": "http://10.0.0.1"}]}, "engines connect to hosts that the client names"),
        ({"tools": [{"type": "mcp", "server_url": "http://10.0.0.1"}]}, "Tools with 'server_url' are not taken"),
        ({"id_slot": 0}, "which slot answers is the engine's business"),
        ({"chat_template_kwargs": {"chat_template": "{{ x }}"}}, "no 'chat_template'"),
        ({"chat_template_kwargs": {"tokenize": False}}, "no 'tokenize'"),
        ({"chat_template_kwargs": {"x": [1]}}, "may hold plain values only"),
        ({"chat_template_kwargs": "x"}, "must be an object of names and plain values"),
    ],
)
def test_templates_and_transfers_of_the_clients_own_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_content({"messages": [], **fields})
    assert message in str(refused.value)
    assert (refused.value.status, refused.value.code) == (400, "forbidden_content")


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": False}},
        {"input": "text"},
        {"input": ["text", "more"]},
        {"input": [[1, 2], [3]]},
        {"messages": "odd"},
        {"messages": [7, None, {"role": "user"}, {"content": [["x"]]}]},
        {"prompt": "x"},
        {"input": [{"type": "function_call_output", "call_id": "1", "output": "see http://example.org"}]},
    ],
)
def test_ordinary_and_odd_bodies_pass(document: dict[str, Any]) -> None:
    check_content(document)
