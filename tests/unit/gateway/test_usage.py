"""Token counts out of answers."""

import json

import pytest

from slm_operator.gateway.usage import StreamUsage, Usage, usage_in


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4, "details": {"x": {}}}, "z": 1}, Usage(3, 4)),
        ({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, Usage(3, 0)),
        ({"usage": {"input_tokens": 5, "output_tokens": 6}}, Usage(5, 6)),
        ({"usage": {"input_tokens": 5, "cache_read_input_tokens": 90, "output_tokens": 6}}, Usage(95, 6)),
        ({"usage": {"prompt_tokens": 2, "total_tokens": 2}, "data": [0.5] * 5000}, Usage(2, 0)),
        (
            {"content": '"usage": {"prompt_tokens": 9}', "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
            Usage(1, 2),
        ),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 4}}, Usage(0, 4)),
        ({"usage": None}, None),
        ({"usage": {"other": 1}}, None),
        ({"content": '"usage": {"prompt_tokens": 9}'}, None),
        ({}, None),
    ],
)
def test_counts_are_read_where_the_engine_gives_them(answer: object, usage: Usage | None) -> None:
    assert usage_in(json.dumps(answer).encode()) == usage


def test_a_streams_counts_come_from_its_end_however_it_is_cut() -> None:
    last = b'data: {"usage":{"prompt_tokens":5,"completion_tokens":7}}\n\ndata: [DONE]\n\n'
    for cut in range(len(last)):
        counts = StreamUsage()
        for piece in (b'data: {"choices":[]}\n\n' * 500, last[:cut], last[cut:]):
            counts.feed(piece)
        assert counts.result(100) == Usage(5, 7)


def test_a_stream_without_counts_is_estimated_and_says_so() -> None:
    counts = StreamUsage()
    counts.feed(b"data: 1\n\ndata: 2\n\n")
    assert counts.result(100) == Usage(25, 2, estimated=True)


@pytest.mark.parametrize("count", [3, 3000])
def test_a_stream_of_anthropics_has_its_counts_at_both_ends_and_may_be_cut_in_between(count: int) -> None:
    counts = StreamUsage()
    start = {"message": {"usage": {"cache_read_input_tokens": 400, "input_tokens": 100, "output_tokens": 0}}}
    for document in (start, *({"delta": {"text": "word"}} for _ in range(count))):
        counts.feed(b"event: x\ndata: " + json.dumps(document).encode() + b"\n\n")
    assert counts.result(10) == Usage(500, count + 1, estimated=True)
    counts.feed(b'event: message_delta\ndata: {"usage": {"output_tokens": 7}}\n\n')
    assert counts.result(10) == Usage(500, 7)


def test_a_stream_of_llama_cpps_is_counted_although_the_client_did_not_ask() -> None:
    counts = StreamUsage()
    counts.feed(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n' * 9)
    counts.feed(
        b'data: {"choices": [], "timings": {"cache_n": 30, "prompt_n": 5, "predicted_n": 8}}\n\ndata: [DONE]\n\n'
    )
    assert counts.result(4 * 10**6) == Usage(35, 8), "and not as a million tokens for a picture in the request"
