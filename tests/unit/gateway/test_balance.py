"""Consistent hashing with bounded loads: what it promises, for any loads."""

from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.balance import LOAD_FACTOR, Ring, hash_of

ENGINES = [f"engine-{number}" for number in range(8)]
SLOTS = dict.fromkeys(ENGINES, 1)
LOADS = st.lists(st.integers(0, 6), min_size=1, max_size=8).map(lambda each: dict(zip(ENGINES, each, strict=False)))


def test_hashes_are_the_same_in_every_process_and_release() -> None:
    assert hash_of("hello") == 0xA7B6EDA801E5347D
    assert hash_of("\ud800") != hash_of("\ud801"), "halves of surrogate pairs are text, too"


@given(loads=LOADS, prefix=st.text(max_size=8), slots=st.lists(st.integers(1, 7), min_size=8, max_size=8))
def test_the_chosen_engine_has_a_slot_and_at_most_its_share(
    loads: dict[str, int], prefix: str, slots: list[int]
) -> None:
    most = dict(zip(ENGINES, slots, strict=True))
    chosen = Ring(most).choose(prefix, loads)
    free = [name for name, load in loads.items() if load < most[name]]
    assert (chosen is None) == (not free)
    if chosen is not None:
        assert loads[chosen] < most[chosen]
        share = most[chosen] / sum(most[name] for name in loads)
        bound = ceil(LOAD_FACTOR * (sum(loads.values()) + 1) * share)
        assert loads[chosen] < bound or loads[chosen] / most[chosen] == min(loads[name] / most[name] for name in free)


def test_an_engine_with_more_slots_is_given_more() -> None:
    ring, loads = Ring({"small": 2, "large": 8}), {"small": 0, "large": 0}
    for number in range(10):
        chosen = ring.choose(f"prompt {number}", loads)
        assert chosen is not None
        loads[chosen] += 1
        assert loads["small"] <= ceil(LOAD_FACTOR * sum(loads.values()) / 5)
    assert (loads, ring.choose("", loads)) == ({"small": 2, "large": 8}, None)


@given(loads=LOADS)
def test_without_a_prompt_the_least_loaded_is_chosen(loads: dict[str, int]) -> None:
    chosen = Ring(dict.fromkeys(ENGINES, 100)).choose("", loads)
    assert chosen is not None
    assert loads[chosen] == min(loads.values())


def test_prompts_spread_evenly_enough() -> None:
    ring, idle = Ring(SLOTS), dict.fromkeys(ENGINES, 0)
    counts = Counter(ring.choose(f"prompt {number}", idle) for number in range(8000))
    assert min(counts.values()) > 600
    assert max(counts.values()) < 1500


def test_one_engine_more_moves_only_its_share_of_prompts() -> None:
    prompts = [f"prompt {number}" for number in range(4000)]
    before, after = Ring(dict.fromkeys(ENGINES[:7], 1)), Ring(SLOTS)
    idle = dict.fromkeys(ENGINES, 0)
    seven = dict.fromkeys(ENGINES[:7], 0)
    moved = [each for each in prompts if before.choose(each, seven) != after.choose(each, idle)]
    assert 0 < len(moved) < 4000 * 2 / 8
    assert {after.choose(each, idle) for each in moved} == {ENGINES[7]}


def test_an_engine_that_may_not_be_taken_is_left_out_without_moving_the_others() -> None:
    ring, idle = Ring(SLOTS), dict.fromkeys(ENGINES, 0)
    without = {name: 0 for name in ENGINES if name != "engine-3"}
    for number in range(200):
        usual = ring.choose(f"prompt {number}", idle)
        left = ring.choose(f"prompt {number}", without)
        assert left == usual if usual != "engine-3" else left in without
