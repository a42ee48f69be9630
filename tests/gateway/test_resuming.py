"""A stream whose engine crashes goes on with another one, and the client sees one answer."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.asking import Ask
from slm_operator.gateway.resuming import CHAT, COMPLETIONS, Transcript
from tests.support.gateway import Door, chat, open_gateway, until
from tests.support.stub_engine import StubEngine


def engines(crash_before: int, **more: Any) -> tuple[StubEngine, StubEngine]:
    """One that crashes before that token, and one that does not; the first is asked first."""
    return StubEngine("first", 5, 0.01, crash_before=crash_before, **more), StubEngine("second", 5, 0.01, **more)


async def ask(door: Door, first: StubEngine, second: StubEngine, path: str, body: dict[str, Any]) -> list[Any]:
    """All events of the answer; the second engine comes once the first is at work."""
    door.put(first)
    async with door.session.post(door.url + path, json=body) as answer:
        door.put(first, second)
        text = (await answer.read()).decode()
    await until(lambda: bool(door.records))
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: {")]


def text_of(events: list[Any]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


@pytest.mark.parametrize("crash_before", [1, 2, 4])
async def test_another_engine_continues_a_chat_that_the_client_sees_as_one_answer(crash_before: int) -> None:
    first, second = engines(crash_before)
    async with open_gateway(first, second) as door:
        body = chat(stream=True, max_tokens=5, stream_options={"include_usage": True})
        events = await ask(door, first, second, CHAT, body)
        (record,) = door.records
    assert text_of(events) == "t0 t1 t2 t3 t4 "
    assert {event["id"] for event in events} == {"of first"}
    assert events[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    asked = second.seen[-1].document
    assert asked["messages"][-1] == {"role": "assistant", "content": "".join(f"t{n} " for n in range(crash_before))}
    # Without both vLLM would begin a new answer.
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
    assert asked["max_tokens"] == 5 - crash_before
    assert (record.verdict, record.completion_tokens) == ("ok", 5)
    assert record.attempts > 1


@pytest.mark.parametrize(
    "words",
    [
        b'data: {"error":{"message":"EngineCore encountered an issue","type":"InternalServerError","code":500}}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":""},"finish_reason":"abort"}]}\n\n',
    ],
    ids=["its heart stopped", "it was told to end"],
)
async def test_an_engine_that_says_that_it_fails_is_one_that_crashes(words: bytes) -> None:
    first, second = engines(3, last_words=words)
    async with open_gateway(first, second) as door:
        events = await ask(door, first, second, CHAT, chat(stream=True))
        assert [record.verdict for record in door.records] == ["ok"]
    assert text_of(events) == "t0 t1 t2 t3 t4 "
    assert not any("error" in event for event in events)


async def test_words_about_failures_are_no_failures() -> None:
    text = 'data: {"error":{"code":500}} "finish_reason":"abort"'
    transcript = Transcript()
    told = event(content=text)
    assert transcript.take(told) == told
    assert not transcript.failed


async def test_an_error_that_is_the_clients_is_told() -> None:
    transcript = Transcript()
    told = b'data: {"error":{"message":"too long","code":400}}\n\n'
    assert transcript.take(event(content="a") + told) == event(content="a") + told
    assert not transcript.failed


async def test_a_prompt_is_continued_too() -> None:
    first, second = engines(2)
    async with open_gateway(first, second) as door:
        body = {"model": "default/qwen", "prompt": "Count: ", "stream": True}
        events = await ask(door, first, second, COMPLETIONS, body)
    assert text_of(events) == "t0 t1 t2 t3 t4 "
    assert second.seen[-1].document["prompt"] == "Count: t0 t1 "


async def test_an_answer_that_the_client_began_itself_goes_on_from_there() -> None:
    first, second = engines(4)
    async with open_gateway(first, second) as door:
        body = chat(stream=True)
        body["messages"].append({"role": "assistant", "content": "t0 t1 "})
        events = await ask(door, first, second, CHAT, body)
    assert text_of(events) == "t2 t3 t4 "
    assert second.seen[-1].document["messages"][1:] == [{"role": "assistant", "content": "t0 t1 t2 t3 "}]


async def test_an_answer_that_was_complete_but_for_its_end_gets_its_end() -> None:
    first, second = engines(5, finishes=True)
    async with open_gateway(first, second) as door:
        events = await ask(door, first, second, CHAT, chat(stream=True))
        assert [record.verdict for record in door.records] == ["ok"]
    assert text_of(events) == "t0 t1 t2 t3 t4 "
    assert second.seen == []


async def test_a_request_that_makes_engines_crash_is_not_tried_on_all_of_them() -> None:
    crashing = [StubEngine(f"engine-{n}", 9, 0.01, crash_before=8) for n in range(5)]
    async with open_gateway(*crashing) as door:
        async with door.session.post(door.url + CHAT, json=chat(stream=True)) as answer:
            with pytest.raises(Exception, match="payload"):
                await answer.read()
        await until(lambda: bool(door.records))
        assert [record.verdict for record in door.records] == ["truncated"]
    assert sum(len(engine.seen) for engine in crashing) <= 3


def event(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"id": "a", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


ANSWER = event(role="assistant", content=None) + b": comment\n\n" + event(content='a "b"\n') + event(content="ü\\")
REQUEST = Ask("m", True, "", json.dumps(chat("m")).encode())  # noqa: FBT003 - fields of a dataclass


@given(st.lists(st.integers(0, len(ANSWER)), max_size=6))
def test_only_whole_events_are_told_wherever_pieces_end(cuts: list[int]) -> None:
    transcript, told = Transcript(), b""
    bounds = sorted({0, len(ANSWER), *cuts})
    for begin, end in itertools.pairwise(bounds):
        told += transcript.take(ANSWER[begin:end])
        assert told == b"" or told.endswith(b"\n\n")
    assert told == ANSWER
    resumed = transcript.resume(REQUEST, CHAT)
    assert resumed is not None
    assert json.loads(resumed.body)["messages"][-1]["content"] == 'a "b"\nü\\'


@pytest.mark.parametrize(
    ("events", "fields"),
    [
        (event(reasoning_content="hm"), {}),
        (event(content="a") + event(tool_calls=[{"index": 0}]), {}),
        (event(content="a"), {"tools": [{}]}),
        (event(content="a"), {"response_format": {"type": "json_object"}}),
        (event(content="a"), {"logprobs": True}),
        (event(content="a"), {"n": 2}),
    ],
    ids=["thinking", "tool call", "tools", "grammar", "probabilities", "several answers"],
)
def test_what_is_more_than_text_is_not_continued(events: bytes, fields: dict[str, Any]) -> None:
    transcript = Transcript()
    assert transcript.take(events) == events
    assert transcript.resume(Ask("m", True, "", json.dumps(chat("m", **fields)).encode()), CHAT) is None  # noqa: FBT003


def test_half_an_event_of_an_engine_that_crashed_is_left_out() -> None:
    transcript = Transcript()
    assert transcript.take(event(content="a")[:20]) == b""
    transcript.begin()
    assert transcript.take(event(content="b")) == event(content="b")


def test_of_whose_answer_no_text_came_anything_can_be_asked_again() -> None:
    transcript = Transcript()
    transcript.take(event(role="assistant", content=None))
    ask = Ask("m", True, "", json.dumps(chat("m", tools=[{}])).encode())  # noqa: FBT003
    resumed = transcript.resume(ask, CHAT)
    assert resumed is not None
    assert json.loads(resumed.body) == json.loads(ask.body)
    assert transcript.take(event(role="assistant", content=None) + event(content="a")) == event(content="a")
