"""What is read from bodies, and that they stay as they were."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.asking import PREFIX_CHARACTERS, read_ask
from slm_operator.gateway.content import FORBIDDEN, TEMPLATE_ARGUMENTS
from slm_operator.gateway.refusal import Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("model"), inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.text().filter(lambda name: name not in {*FORBIDDEN, TEMPLATE_ARGUMENTS})
"""Texts include words of the modules that are loaded, and so those that a body may not hold."""


@given(rest=st.dictionaries(FIELDS, JSON, max_size=4), ascii_only=st.booleans(), name=st.text(min_size=1))
def test_naming_the_model_differently_changes_nothing_else(
    rest: dict[str, Any],
    ascii_only: bool,  # noqa: FBT001
    name: str,
) -> None:
    document = {"x": 1, **rest, "model": "before", "stream": False}
    ask = read_ask(json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    assert ask.model == "before"
    assert json.loads(ask.body_for(name)) == {**document, "model": name}
    assert ask.body_for("") is ask.body
    assert ask.body_for("before") is ask.body


@pytest.mark.parametrize(
    "body",
    [
        b'{"model" :\t"before",  "seed": 1E2, "text": "say \\"model\\": \\"before\\"", "n": 1.50}',
        b'{"messages":[{"role":"model"}], "model":"before", "seed": 100000000000000000000000000.0}',
    ],
)
def test_all_bytes_but_the_models_name_are_passed_as_they_came(body: bytes) -> None:
    renamed = read_ask(body).body_for('a "name"')
    head, _, tail = body.partition(b'"before"')
    assert renamed == head + b'"a \\"name\\""' + tail


def test_the_outer_field_is_renamed_where_an_inner_one_looks_like_it() -> None:
    body = b'{"metadata": {"model": "before"}, "model": "before"}'
    assert json.loads(read_ask(body).body_for("after")) == {"metadata": {"model": "before"}, "model": "after"}


@pytest.mark.parametrize(
    ("fields", "prefix"),
    [
        ({"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "why?"}]}, "why?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]}, "what?"),
        ({"messages": [{"role": "system", "content": "alone"}]}, "alone"),
        ({"messages": []}, ""),
        ({"prompt": "once upon"}, "once upon"),
        ({"prompt": ["a", "b"]}, "a"),
        ({"prompt": [1, 2, 3]}, ""),
        ({"input": "embed me"}, "embed me"),
        ({"input": [{"role": "user", "content": "respond"}]}, "respond"),
        ({"messages": [{"role": "user", "content": "why?"}], "prompt_cache_key": "mine"}, "mine"),
        ({"messages": [{"role": "user", "content": None}]}, ""),
        ({"messages": "odd"}, "odd"),
        ({"messages": [7]}, ""),
        ({}, ""),
    ],
)
def test_the_prompt_begins_with_the_first_question(fields: dict[str, Any], prefix: str) -> None:
    assert read_ask(json.dumps({"model": "m", **fields}).encode()).prefix == prefix


def test_a_long_prompt_is_cut() -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 10_000}).encode()
    assert read_ask(body).prefix == "x" * PREFIX_CHARACTERS


@given(body=st.binary(max_size=64))
def test_any_bytes_are_refused_with_what_they_must_be(body: bytes) -> None:
    with pytest.raises(Refusal, match=r"The (body must be|field 'model' must)") as refused:
        read_ask(body)
    assert refused.value.status == 400
