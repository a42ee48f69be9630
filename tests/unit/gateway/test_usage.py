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
