"""Consistent hashing with bounded loads: what it promises, for any loads."""

from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.balance import LOAD_FACTOR, Ring, hash_of

ENGINES = [f"engine-{number}" for number in range(8)]
LOADS = st.lists(st.integers(0, 6), min_size=1, max_size=8).map(lambda each: dict(zip(ENGINES, each, strict=False)))


def test_hashes_are_the_same_in_every_process_and_release() -> None:
    assert hash_of("hello") == 0xA7B6EDA801E5347D
    assert hash_of("\ud800") != hash_of("\ud801"), "halves of surrogate pairs are text, too"


@given(loads=LOADS, prefix=st.text(max_size=8), most=st.integers(1, 7))
def test_the_chosen_engine_has_a_slot_and_at_most_its_share(loads: dict[str, int], prefix: str, most: int) -> None:
    chosen = Ring(loads).choose(prefix, loads, most)
    free = [name for name, load in loads.items() if load < most]
    assert (chosen is None) == (not free)
    if chosen is not None:
        assert loads[chosen] < most
        bound = ceil(LOAD_FACTOR * (sum(loads.values()) + 1) / len(loads))
        assert loads[chosen] < bound or loads[chosen] == min(loads[name] for name in free)


@given(loads=LOADS)
def test_without_a_prompt_the_least_loaded_is_chosen(loads: dict[str, int]) -> None:
    chosen = Ring(loads).choose("", loads, 100)
    assert chosen is not None
    assert loads[chosen] == min(loads.values())


def test_prompts_spread_evenly_enough() -> None:
    ring, idle = Ring(ENGINES), dict.fromkeys(ENGINES, 0)
    counts = Counter(ring.choose(f"prompt {number}", idle, 1) for number in range(8000))
    assert min(counts.values()) > 600
    assert max(counts.values()) < 1500


def test_one_engine_more_moves_only_its_share_of_prompts() -> None:
    prompts = [f"prompt {number}" for number in range(4000)]
    before, after = Ring(ENGINES[:7]), Ring(ENGINES)
    idle = dict.fromkeys(ENGINES, 0)
    seven = dict.fromkeys(ENGINES[:7], 0)
    moved = [each for each in prompts if before.choose(each, seven, 1) != after.choose(each, idle, 1)]
    assert 0 < len(moved) < 4000 * 2 / 8
    assert {after.choose(each, idle, 1) for each in moved} == {ENGINES[7]}


def test_an_engine_that_may_not_be_taken_is_left_out_without_moving_the_others() -> None:
    ring, idle = Ring(ENGINES), dict.fromkeys(ENGINES, 0)
    without = {name: 0 for name in ENGINES if name != "engine-3"}
    for number in range(200):
        usual = ring.choose(f"prompt {number}", idle, 1)
        left = ring.choose(f"prompt {number}", without, 1)
        assert left == usual if usual != "engine-3" else left in without
