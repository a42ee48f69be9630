"""Which requests go to a canary: its share of them, and whole conversations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.directory import Endpoint
from slm_operator.gateway.tracks import AHEAD, Tracks

SLOTS = 4
STABLE = Endpoint("stable", "10.0.0.1", 80, slots=SLOTS)
CANARY = Endpoint("canary", "10.0.0.2", 80, slots=SLOTS, canary=True)


def tracks(*endpoints: Endpoint) -> Tracks:
    made = Tracks()
    made.update(endpoints)
    return made


def choose(made: Tracks, prefix: str, percent: int, *, again: bool = False, **loads: int) -> str | None:
    return made.choose(prefix, {"stable": 0, "canary": 0, **loads}, percent, again=again)


prefixes = st.lists(st.text(max_size=4), min_size=1, max_size=300)


@given(st.integers(1, 99), prefixes)
def test_the_share_is_kept_at_every_moment_whatever_is_asked(percent: int, asked: list[str]) -> None:
    made, got = tracks(STABLE, CANARY), 0
    for number, prefix in enumerate(asked, 1):
        got += choose(made, prefix, percent) == "canary"
        assert number * percent / 100 - 1 - 1e-6 <= got <= number * percent / 100 + AHEAD + 1e-6


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 99])
def test_one_question_alone_is_shared_too(percent: int) -> None:
    made = tracks(STABLE, CANARY)
    got = [choose(made, "the same", percent) for _ in range(1000)].count("canary")
    assert percent * 10 - 1 <= got <= percent * 10 + AHEAD


def test_conversations_stay_with_their_track_while_the_share_grows() -> None:
    made = tracks(STABLE, CANARY)
    conversations = [f"question {number}" for number in range(400)]
    seen = [{each for each in conversations if choose(made, each, percent) == "canary"} for percent in (10, 10, 50)]
    assert len(seen[0] & seen[1]) / len(seen[0]) > 0.8
    assert len(seen[0] & seen[2]) / len(seen[0]) > 0.8


def test_without_a_canary_or_a_share_all_go_to_the_others_and_without_others_to_the_canary() -> None:
    assert {tracks(STABLE).choose("", {"stable": 0}, 50, again=False) for _ in range(20)} == {"stable"}
    made = tracks(STABLE, CANARY)
    assert {choose(made, str(number), 0) for number in range(20)} == {"stable"}
    assert {tracks(CANARY).choose("", {"canary": 0}, 0, again=False) for _ in range(20)} == {"canary"}


def test_a_canary_that_is_full_or_rests_gives_its_requests_to_the_others_and_is_owed_one_at_most() -> None:
    made = tracks(STABLE, CANARY)
    assert {choose(made, "", 50, canary=SLOTS) for _ in range(20)} == {"stable"}
    assert {made.choose("", {"stable": 0}, 50, again=False) for _ in range(20)} == {"stable"}
    assert [choose(made, "", 50) for _ in range(5)].count("canary") <= 3


def test_others_that_are_full_give_nothing_to_the_canary_beyond_its_share() -> None:
    made = tracks(STABLE, CANARY)
    answers = [choose(made, "", 10, stable=SLOTS) for _ in range(20)]
    assert set(answers) == {None}, "it waits, and nothing is counted for what waits"


def test_a_request_that_an_engine_failed_goes_to_the_others_and_counts_for_no_share() -> None:
    made = tracks(STABLE, CANARY)
    assert {choose(made, str(number), 50, again=True) for number in range(20)} == {"stable"}
    assert [choose(made, "", 50) for _ in range(2)] == ["stable", "canary"]
