"""Limits per key, with a clock in the test's hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.keys import ApiKey
from slm_operator.gateway.quotas import Quotas
from slm_operator.gateway.refusal import Refusal


def key(name: str = "a", **limits: Any) -> ApiKey:
    return ApiKey(name, "default", (), ("default/*",), **limits)


def refused(quotas: Quotas, limited: ApiKey, now: float) -> Refusal:
    with pytest.raises(Refusal) as found:
        quotas.begin(limited, now)
    assert (found.value.status, found.value.code) == (429, "rate_limit_exceeded")
    return found.value


def test_requests_per_minute_come_back_steadily_and_the_refusal_says_when() -> None:
    quotas, limited = Quotas(), key(requests_per_minute=6)
    for _ in range(6):
        quotas.begin(limited, 0.0)
    refusal = refused(quotas, limited, 0.0)
    assert refusal.retry_after_seconds == 10
    assert str(refusal).startswith("This key may send 6 requests per minute: try again in 10 s")
    quotas.begin(limited, 10.0)
    assert refused(quotas, limited, 12.5).retry_after_seconds == 8
    for _ in range(6):
        quotas.begin(limited, 1000.0)
    refused(quotas, limited, 1000.0)


def test_tokens_are_counted_when_they_have_come_and_owed_after_that() -> None:
    quotas, limited = Quotas(), key(tokens_per_minute=60)
    quotas.begin(limited, 0.0)
    quotas.end(limited, 100)
    refusal = refused(quotas, limited, 0.0)
    assert refusal.retry_after_seconds == 41
    assert "60 tokens per minute" in str(refusal)
    quotas.begin(limited, 41.0)


def test_requests_at_a_time_are_bounded() -> None:
    quotas, limited = Quotas(), key(max_in_flight=2)
    quotas.begin(limited, 0.0)
    quotas.begin(limited, 0.0)
    assert "2 requests at a time" in str(refused(quotas, limited, 0.0))
    quotas.end(limited, 0)
    quotas.begin(limited, 0.0)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": 0}, {"max_in_flight": 0}])
def test_a_limit_of_nothing_lets_nothing_through(limits: dict[str, Any]) -> None:
    quotas = Quotas()
    for now in (0.0, 1000.0):
        assert refused(quotas, key(**limits), now).retry_after_seconds >= 1


def test_keys_are_counted_apart_and_a_refused_request_costs_nothing() -> None:
    quotas, one, other = Quotas(), key("one", requests_per_minute=1, max_in_flight=1), key("other")
    quotas.begin(one, 0.0)
    for _ in range(5):
        refused(quotas, one, 0.0)
        quotas.begin(other, 0.0)
    quotas.end(one, 0)
    quotas.begin(one, 60.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200), st.integers(1, 20))
def test_no_minute_has_more_than_twice_its_requests(steps: list[tuple[float, bool]], most: int) -> None:
    quotas, limited = Quotas(), key(requests_per_minute=most)
    now, passed = 0.0, []
    for pause, _ in steps:
        now += pause
        try:
            quotas.begin(limited, now)
            passed.append(now)
        except Refusal:
            continue
    for moment in passed:
        assert sum(moment <= each < moment + 60 for each in passed) <= 2 * most


def test_what_is_forgotten_is_only_what_is_over() -> None:
    quotas, limited = Quotas(), key(max_in_flight=1)
    quotas.begin(limited, 0.0)
    quotas.keep(set())
    refused(quotas, limited, 0.0)
    quotas.end(limited, 0)
    quotas.keep(set())
    quotas.end(limited, 0)
    quotas.begin(limited, 0.0)
