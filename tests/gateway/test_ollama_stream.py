"""Server-sent events become lines of JSON, whole and once, wherever the network cuts them."""

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.ollama_answer import Moment, Timing
from slm_operator.gateway.ollama_errors import OllamaError
from slm_operator.gateway.ollama_request import Call, Shape
from slm_operator.gateway.ollama_stream import LONGEST_EVENT, EventReader, StreamTranslator

NOW = Moment(datetime(2023, 8, 4, 19, 22, 45, 499127, tzinfo=UTC), 10_000_000_000)
CHAT = Call(Shape.CHAT, "llama3.2", "/v1/chat/completions", stream=True)
HEAD = {"model": "llama3.2", "created_at": "2023-08-04T19:22:45.499127Z"}


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


def call_piece(index: int, arguments: str, name: str | None = None, identity: str | None = None) -> bytes:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return delta(tool_calls=[{"index": index, "function": function} | ({"id": identity} if identity else {})])


USAGE = event({"choices": [], "usage": {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}})
DONE = b"data: [DONE]\n\n"
SKY = [delta(role="assistant", content=""), delta(content="The"), delta(content=" sky 🌈"), delta("stop"), USAGE, DONE]


def translate(stream: bytes, call: Call = CHAT, cuts: list[int] | None = None) -> tuple[bytes, StreamTranslator]:
    translator = StreamTranslator(call, Timing(begun=NOW.nanoseconds - 5_000_000_000))
    out, edges = b"", [0, *sorted(cuts or []), len(stream)]
    for begin, end in pairwise(edges):
        out += translator.feed(stream[begin:end], NOW)
    return out + translator.finish(NOW), translator


def lines(stream: bytes, call: Call = CHAT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in translate(stream, call)[0].splitlines()]


def test_a_chat_is_told_as_ollama_tells_it() -> None:
    assert lines(b"".join(SKY)) == [
        {**HEAD, "message": {"role": "assistant", "content": "The"}, "done": False},
        {**HEAD, "message": {"role": "assistant", "content": " sky 🌈"}, "done": False},
        {
            **HEAD,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "total_duration": 5_000_000_000,
            "load_duration": 0,
            "prompt_eval_count": 26,
            "eval_count": 298,
            "prompt_eval_duration": 5_000_000_000,
            "eval_duration": 0,
        },
    ]


def test_the_engines_own_measurements_come_first() -> None:
    timings = {"prompt_n": 26, "prompt_ms": 342.546, "predicted_n": 282, "predicted_ms": 4535.599}
    last = lines(
        delta(content="x") + event({"choices": [{"delta": {}, "finish_reason": "length"}], "timings": timings})
    )
    assert last[-1]["done_reason"] == "length"
    assert (last[-1]["prompt_eval_duration"], last[-1]["eval_duration"]) == (342_546_000, 4_535_599_000)
    assert (last[-1]["prompt_eval_count"], last[-1]["eval_count"]) == (26, 282)


def test_durations_without_them_are_measured_here_and_do_not_count_the_start() -> None:
    translator = StreamTranslator(CHAT, Timing(begun=0, load=2_000))
    translator.feed(delta(content="a"), Moment(NOW.wall, 3_000))
    out = translator.feed(delta("stop") + DONE, Moment(NOW.wall, 7_000))
    last = json.loads(out)
    names = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    assert [last[name] for name in names] == [7_000, 2_000, 1_000, 4_000]


def test_generate_has_its_text_elsewhere() -> None:
    call = Call(Shape.GENERATE, "llama3.2", "/v1/completions", stream=True)
    text = event({"choices": [{"text": "The", "finish_reason": None}]})
    end = event({"choices": [{"text": "", "finish_reason": "length"}]})
    first, last = lines(text + end + DONE, call)
    assert first == {**HEAD, "response": "The", "done": False}
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "length")


def test_thinking_has_its_own_field_and_is_left_out_where_it_was_not_wanted() -> None:
    stream = delta(reasoning_content="hm") + delta(reasoning="so") + delta(content="4") + delta("stop") + DONE
    shown = [line["message"] for line in lines(stream)]
    assert [message.get("thinking") for message in shown] == ["hm", "so", None, None]
    hidden = lines(stream, Call(Shape.CHAT, "llama3.2", stream=True, show_thinking=False))
    assert [line["message"]["content"] for line in hidden] == ["4", ""]


def test_tool_calls_come_whole() -> None:
    stream = (
        call_piece(0, "", "get_weather", "call_1")
        + call_piece(0, '{"city": "Par')
        + call_piece(1, '{"city": "Lyon"}', "get_weather", "call_2")
        + call_piece(0, 'is"}')
        + delta("tool_calls")
        + DONE
    )
    first, last = lines(stream)
    assert first["message"]["tool_calls"] == [
        {"id": "call_1", "function": {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}},
        {"id": "call_2", "function": {"index": 1, "name": "get_weather", "arguments": {"city": "Lyon"}}},
    ]
    assert (first["done"], last["done"], last["done_reason"]) == (False, True, "stop")


@pytest.mark.parametrize("arguments", ['{"city": ', "[]", "5"])
def test_arguments_that_are_no_object_are_an_error_not_a_guess(arguments: str) -> None:
    last = lines(call_piece(0, arguments, "get_weather") + delta("tool_calls") + DONE)
    assert last == [{"error": f"the model called get_weather with arguments that are no JSON object: {arguments}"}]


def test_half_a_surrogate_pair_in_arguments_is_replaced() -> None:
    first, last = lines(call_piece(0, '{"city": "\\ud83d"}', "get_weather") + delta("tool_calls") + DONE)
    assert first["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "?"}
    assert last["done"]
    assert lines(event({"error": "\\ud83d"}).replace(b"\\\\", b"\\")) == [{"error": "?"}]


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (delta(content="The"), "the engine's answer ended before it was complete"),
        (delta(content="The") + DONE, "the engine's answer ended before it was complete"),
        (delta(content="The") + event({"error": {"message": "out of memory"}}) + delta(content="x"), "out of memory"),
        (delta(content="The") + event({"error": {"code": 500}}), "the engine failed while it answered"),
        (delta(content="The") + b"data: {oops\n\n", "the engine sent an event that is not of OpenAI's form"),
        (delta(content="The") + b"data: [1]\n\n", "the engine sent an event that is not of OpenAI's form"),
    ],
)
def test_an_answer_that_breaks_ends_in_an_error(stream: bytes, error: str) -> None:
    told = lines(stream)
    assert told[0]["message"]["content"] == "The"
    assert told[1:] == [{"error": error}]


def test_a_fault_between_engine_and_client_is_told_once() -> None:
    translator = StreamTranslator(CHAT, Timing(begun=0))
    translator.feed(delta(content="The"), NOW)
    assert json.loads(translator.fail("the engine went away")) == {"error": "the engine went away"}
    assert translator.fail("again") == translator.finish(NOW) == translator.feed(delta(content="x"), NOW) == b""


def test_an_event_that_does_not_end_is_told_once_and_what_follows_is_not_kept() -> None:
    translator = StreamTranslator(CHAT, Timing(0))
    told = b"".join(translator.feed(b"data: " + b"x" * LONGEST_EVENT, NOW) for _ in range(4)) + translator.finish(NOW)
    assert told == b'{"error": "the engine sent an event that does not end"}\n'
    assert translator.failed
    assert len(translator._events._rest) < 2 * LONGEST_EVENT


def test_comments_that_keep_a_connection_open_are_no_lines() -> None:
    assert lines(b": waiting\n\n: waiting\n\n" + b"".join(SKY)) == lines(b"".join(SKY))


def test_events_may_have_other_fields_line_ends_and_several_data_lines() -> None:
    stream = b'event: x\r\nid: 1\r\ndata: {"choices": [{"delta":\r\ndata: {"content": "a"}}]}\r\n\r\n'
    assert lines(stream + delta("stop") + b"data:[DONE]")[0]["message"]["content"] == "a"


@pytest.mark.parametrize("piece", [b"x" * 2**16, b"data: " + b"x" * 2**16 + b"\n"], ids=["line", "event"])
def test_an_event_without_an_end_is_not_kept_forever(piece: bytes) -> None:
    reader = EventReader()

    def feed_all() -> None:
        for _ in range(2 + LONGEST_EVENT // 2**16):
            list(reader.feed(piece))

    with pytest.raises(OllamaError, match="the engine sent an event that does not end"):
        feed_all()


texts = st.text(st.characters(codec="utf-8"), max_size=6)
pieces = st.one_of(
    st.builds(lambda text: delta(content=text), texts),
    st.builds(lambda text: delta(reasoning_content=text), texts),
    st.builds(lambda number: call_piece(number, "{}", "f"), st.integers(0, 2)),
    st.sampled_from([b": waiting\n\n", b"\n", USAGE, b"event: x\n", b"data: broken\n\n", b"id\r\n\r\n"]),
)
streams = st.builds(
    lambda parts, end, newline: (b"".join(parts) + end).replace(b"\n", newline),
    st.lists(pieces, max_size=8),
    st.sampled_from([delta("stop") + USAGE + DONE, delta("tool_calls") + DONE, DONE, b"", b"data: [DONE]"]),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
)


@given(streams, st.data())
def test_any_split_gives_the_same_lines(stream: bytes, data: st.DataObject) -> None:
    whole, _ = translate(stream)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert translate(stream, cuts=cuts)[0] == whole
    assert translate(stream, cuts=list(range(len(stream))))[0] == whole


@given(streams)
def test_every_answer_has_one_end_and_it_comes_last(stream: bytes) -> None:
    told = lines(stream)
    assert [line.get("done", True) for line in told] == [False] * (len(told) - 1) + [True]
    assert all(set(line) == {"error"} or set(line) >= {"model", "created_at", "message"} for line in told)


@given(st.lists(texts, min_size=1))
def test_no_text_is_lost(words: list[str]) -> None:
    stream = b"".join(delta(content=word) for word in words) + delta("stop") + DONE
    assert "".join(line["message"]["content"] for line in lines(stream)) == "".join(words)
