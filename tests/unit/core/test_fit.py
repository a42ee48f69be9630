"""Fit: where an engine fits, by how much it does not, and what would help, computed from memory alone."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_contract.results import ModelShape
from slm_operator.core.fit import SHOWN_KINDS, Variant, check_fit
from slm_operator.core.fit_demand import LLAMA_CPP_MARGIN_BYTES, Demand, device_bytes, node_bytes
from slm_operator.core.inventory import Accelerator, Inventory, NodeKind, Taint
from slm_operator.core.resources import PROCESS_BYTES
from slm_operator.core.sizes import gguf_bytes, serving_bytes

GIB = 2**30
LLAMA_8B = ModelShape(
    architecture="llama",
    source_type="F16",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    tied_embeddings=False,
    rope_factors=True,
    metadata_bytes=7_000_000,
)
Q8_0, Q4_K_M, Q2_K = (gguf_bytes(LLAMA_8B, name) for name in ("Q8_0", "Q4_K_M", "Q2_K"))
DEMAND = Demand(LLAMA_8B, Q8_0, 8192, 4, variant="Q8_0")
T4 = Accelerator("NVIDIA", "Tesla-T4", 1, 15360 * 2**20, resource="nvidia.com/gpu")
A10G = Accelerator("NVIDIA", "A10G", 4, 23028 * 2**20, resource="nvidia.com/gpu")
GPU_TAINT = Taint("nvidia.com/gpu", "present")


def build_kind(name: str, gib: float, *accelerators: Accelerator, taints: tuple[Taint, ...] = ()) -> NodeKind:
    return NodeKind((name,), accelerators, int(gib * GIB), Decimal(8), "amd64", taints)


def test_needs_are_weights_cache_buffers_and_what_the_engine_takes_besides() -> None:
    serving = serving_bytes(LLAMA_8B, Q8_0, 8192, 4)
    assert node_bytes(DEMAND) == serving.total + PROCESS_BYTES
    assert device_bytes(DEMAND, 1, T4) == serving.total + LLAMA_CPP_MARGIN_BYTES
    half = device_bytes(DEMAND, 2, A10G) - LLAMA_CPP_MARGIN_BYTES - serving.compute
    assert half == -(-serving.weights // 2) + serving.kv_cache // 2


def test_key_value_heads_are_divided_only_as_far_as_there_are_any() -> None:
    demand = Demand(LLAMA_8B, Q8_0, 8192, 64, engine="vllm")
    serving = serving_bytes(LLAMA_8B, Q8_0, 8192, 64)
    eight, sixteen = (device_bytes(demand, size, A10G) * 0.9 for size in (8, 16))
    assert eight - sixteen == pytest.approx(serving.weights / 16, abs=4)


def test_it_fits_where_there_is_room_and_the_sentence_says_where() -> None:
    verdict = check_fit(DEMAND, Inventory((build_kind("gpu", 60, A10G), build_kind("small", 4))))
    assert [(str(place), place.devices) for place in verdict.fits] == [
        ("4 x NVIDIA A10G with 22.49 GiB (gpu)", 1),
        ("CPU and 60.00 GiB (gpu)", 0),
    ]
    assert verdict.advice == ()
    assert verdict.message == (
        "The engine needs 12.08 GiB (weights Q8_0 7.95 GiB, KV cache 4.00 GiB for 4 slots of 8192 tokens, buffers "
        "134.0 MiB) and fits on 4 x NVIDIA A10G with 22.49 GiB (gpu) using 1; CPU and 60.00 GiB (gpu). Too small: "
        "CPU and 4.00 GiB (small) lacks 8.33 GiB of 12.33 GiB."
    )


def test_where_it_fits_nowhere_the_sentence_says_by_how_much_and_what_would_help() -> None:
    kinds = (build_kind("gpu", 8, Accelerator("NVIDIA", "RTX-A2000", 1, 12 * GIB, resource="nvidia.com/gpu")),)
    variants = [Variant("Q4_K_M", Q4_K_M, exists=False), Variant("Q2_K", Q2_K, exists=True)]
    verdict = check_fit(DEMAND, Inventory(kinds), variants)
    assert (verdict.fits, [place.devices for place in verdict.misses]) == ((), [1, 0])
    assert verdict.advice == (
        "variant Q2_K of 2.96 GiB, which exists",
        "spec.contextSize 5888 instead of 8192",
        "spec.parallel 2 instead of 4",
        "2 x NVIDIA RTX-A2000 in one node",
    )
    assert verdict.message == (
        "The engine needs 12.08 GiB (weights Q8_0 7.95 GiB, KV cache 4.00 GiB for 4 slots of 8192 tokens, buffers "
        "134.0 MiB) and fits on no node: NVIDIA RTX-A2000 with 12.00 GiB (gpu) lacks 1.08 GiB of 13.08 GiB; CPU and "
        "8.00 GiB (gpu) lacks 4.33 GiB of 12.33 GiB. It would fit with variant Q2_K of 2.96 GiB, which exists; or "
        "spec.contextSize 5888 instead of 8192; or spec.parallel 2 instead of 4; or 2 x NVIDIA RTX-A2000 in one node."
    )


def test_a_variant_that_could_be_made_is_proposed_where_none_exists() -> None:
    verdict = check_fit(DEMAND, Inventory((build_kind("n", 10),)), [Variant("Q4_K_M", Q4_K_M, exists=False)])
    assert verdict.advice[0] == "variant Q4_K_M of 4.58 GiB, which a QuantJob can make"


def test_nothing_is_proposed_that_would_not_help() -> None:
    verdict = check_fit(DEMAND, Inventory((build_kind("n", 1),)), [Variant("Q2_K", Q2_K, exists=True)])
    assert verdict.advice == ()
    assert verdict.message.endswith(
        "lacks 11.33 GiB of 12.33 GiB. Add a node with more memory, or serve a smaller model."
    )


def test_several_gpus_of_a_node_are_used_and_no_more_than_needed() -> None:
    demand = Demand(LLAMA_8B, 5 * Q8_0, 8192, 4)
    verdict = check_fit(demand, Inventory((build_kind("gpu", 8, A10G),)))
    assert [(place.devices, place.fits) for place in verdict.fits] == [(3, True)]
    vllm = check_fit(Demand(LLAMA_8B, 5 * Q8_0, 8192, 4, engine="vllm"), Inventory((build_kind("gpu", 8, A10G),)))
    assert [place.devices for place in vllm.fits] == [4]


@pytest.mark.parametrize(
    "accelerator",
    [
        Accelerator("NVIDIA", "A100", 14, 4864 * 2**20, resource="nvidia.com/gpu", partition="1g.5gb"),
        Accelerator("NVIDIA", "A10G", 10, 4 * GIB, resource="nvidia.com/gpu", shared_by=10),
    ],
)
def test_partitions_and_shares_are_neither_joined_nor_proposed_in_numbers(accelerator: Accelerator) -> None:
    verdict = check_fit(DEMAND, Inventory((build_kind("gpu", 2, accelerator),)), accelerator="gpu")
    assert [place.devices for place in verdict.misses] == [1]
    assert not any("in one node" in text for text in verdict.advice)


def test_memory_that_nobody_publishes_is_neither_a_fit_nor_a_miss() -> None:
    unknown = Accelerator("NVIDIA", "", 1, resource="nvidia.com/gpu")
    verdict = check_fit(DEMAND, Inventory((build_kind("gpu", 2, unknown),)), accelerator="gpu")
    assert (verdict.fits, verdict.misses, len(verdict.unknown)) == ((), (), 1)
    assert verdict.message.endswith(
        "fits on no node. Nobody publishes the memory of NVIDIA (gpu): install the vendor's feature discovery or DRA"
        " driver."
    )


@pytest.mark.parametrize(
    ("engine", "accelerator", "kinds", "message"),
    [
        ("vllm", "auto", (build_kind("n", 60),), "fits on no node. None offers a GPU: add one"),
        ("llama.cpp", "gpu", (build_kind("n", 60),), "fits on no node. None offers a GPU: add one"),
        ("llama.cpp", "auto", (), "fits on no node. None is there that takes pods: see whether nodes are ready"),
    ],
)
def test_where_there_is_no_place_at_all_the_sentence_says_what_is_missing(
    engine: str, accelerator: str, kinds: tuple[NodeKind, ...], message: str
) -> None:
    verdict = check_fit(replace(DEMAND, engine=engine), Inventory(kinds), accelerator=accelerator)
    assert (verdict.fits, verdict.misses) == ((), ())
    assert message in verdict.message


def test_a_gpus_own_taint_keeps_only_those_away_who_ask_for_no_gpu() -> None:
    inventory = Inventory((build_kind("gpu", 60, A10G, taints=(GPU_TAINT,)),))
    verdict = check_fit(DEMAND, inventory)
    assert [place.accelerator for place in verdict.fits] == [A10G]
    tolerated = check_fit(DEMAND, inventory, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}])
    assert [place.accelerator for place in tolerated.fits] == [A10G, None]


@pytest.mark.parametrize(
    ("toleration", "admits"),
    [
        ({}, False),
        ({"operator": "Exists"}, True),
        ({"key": "team", "value": "a"}, True),
        ({"key": "team", "value": "b"}, False),
        ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "team", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_taints_are_tolerated_as_the_scheduler_does(toleration: dict[str, str], admits: bool) -> None:  # noqa: FBT001
    inventory = Inventory((build_kind("n", 60, taints=(Taint("team", "a"),)),))
    verdict = check_fit(DEMAND, inventory, tolerations=[toleration])
    assert bool(verdict.fits) == admits
    expected = "Tainted, and not tolerated by spec.tolerations: CPU and 60.00 GiB (n), team."
    assert (expected in verdict.message) == (not admits)


def test_without_a_shape_only_the_weights_count_and_the_sentence_says_about() -> None:
    verdict = check_fit(Demand(None, 8 * GIB, 8192, 4), Inventory((build_kind("n", 4),)))
    assert verdict.message == (
        "The engine needs about 12.25 GiB, of which weights 8.00 GiB and fits on no node: CPU and 4.00 GiB (n) lacks "
        "8.25 GiB of 12.25 GiB. Add a node with more memory, or serve a smaller model."
    )


def test_the_message_stays_short_however_many_kinds_of_nodes_there_are() -> None:
    many = tuple(build_kind(f"node-{index}", 1 + index / 1000) for index in range(500))
    verdict = check_fit(DEMAND, Inventory(many))
    assert len(verdict.misses) == 500
    assert f"; and {500 - SHOWN_KINDS} more." in verdict.message
    assert len(verdict.message) < 1024


ACCELERATORS = st.builds(
    Accelerator,
    vendor=st.sampled_from(["NVIDIA", "AMD", ""]),
    product=st.just("X"),
    count=st.integers(1, 8),
    memory_bytes=st.sampled_from([0, 4 * GIB, 12 * GIB, 24 * GIB, 80 * GIB]),
    partition=st.sampled_from(["", "1g.5gb"]),
    shared_by=st.sampled_from([1, 1, 4]),
)
KINDS = st.builds(
    lambda name, gib, items: build_kind(str(name), gib, *items),
    st.integers(0, 99),
    st.floats(0, 64),
    st.lists(ACCELERATORS, max_size=2),
)
DEMANDS = st.builds(
    Demand,
    shape=st.sampled_from([LLAMA_8B, None]),
    weights_bytes=st.sampled_from([GIB, Q4_K_M, Q8_0, 40 * GIB]),
    context_size=st.sampled_from([256, 4096, 32768]),
    slots=st.integers(1, 16),
    engine=st.sampled_from(["llama.cpp", "vllm"]),
)


@settings(max_examples=60)
@given(DEMANDS, st.lists(KINDS, max_size=4))
def test_what_is_proposed_makes_it_fit_and_one_step_more_does_not(demand: Demand, kinds: list[NodeKind]) -> None:
    inventory = Inventory(tuple(kinds))
    verdict = check_fit(demand, inventory, [Variant("Q2_K", Q2_K, exists=True)])
    for text in verdict.advice:
        value = int(text.split()[1]) if text.startswith("spec.") else 0
        if text.startswith("spec.contextSize"):
            assert check_fit(demand.with_context(value), inventory).fits
            assert value + 256 >= demand.context_size or not check_fit(demand.with_context(value + 256), inventory).fits
        if text.startswith("spec.parallel"):
            assert check_fit(demand.with_slots(value), inventory).fits
            assert value + 1 >= demand.slots or not check_fit(demand.with_slots(value + 1), inventory).fits
    assert not (verdict.fits and verdict.advice)
    assert all(place.missing_bytes == 0 for place in verdict.fits)
    assert all(place.missing_bytes > 0 for place in verdict.misses)
