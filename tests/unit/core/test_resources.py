"""Requests and limits: all of them, whatever the user gives, and never one above the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_contract import specs
from slm_operator.api.meta import ResourceRequirements
from slm_operator.core.placement import ClusterPods
from slm_operator.core.quantity import format_mebibytes, parse_quantity, plan_threads
from slm_operator.core.resources import SMALL, Memory, cpu_limit, engine_memory, fill_resources, step_memory
from tests.support.planning import SHAPE, digest

GIB = 2**30
amounts = {
    "cpu": st.sampled_from(["10m", "500m", "1500m", "2", "64"]),
    "memory": st.sampled_from(["8Mi", "1Gi", "100Gi", "5G"]),
    "ephemeral-storage": st.sampled_from(["1Mi", "10Gi"]),
}
given_amounts = st.fixed_dictionaries({}, optional=amounts)


@given(given_amounts, given_amounts)
def test_everything_has_both_and_what_the_user_gave_alone_is_kept(
    requests: dict[str, str], limits: dict[str, str]
) -> None:
    for name in requests.keys() & limits.keys():
        if parse_quantity(requests[name]) > parse_quantity(limits[name]):
            requests[name] = limits[name]
    filled = fill_resources(ResourceRequirements(requests=requests, limits=limits), SMALL, ClusterPods())
    assert filled["requests"] | requests == filled["requests"]
    assert filled["limits"] | limits == filled["limits"]
    for name in amounts:
        assert parse_quantity(filled["requests"][name]) <= parse_quantity(filled["limits"][name])


def test_other_resources_pass_through() -> None:
    given_resources = ResourceRequirements(limits={"nvidia.com/gpu": "1"})
    assert fill_resources(given_resources, SMALL, ClusterPods())["limits"]["nvidia.com/gpu"] == "1"


def test_threads_follow_the_limit_rounded_down_and_without_one_the_pod_counts() -> None:
    free = ClusterPods(cpu_limit="")
    assert cpu_limit(ResourceRequirements(), free) == ""
    assert plan_threads("", 0) == 0
    assert "cpu" not in fill_resources(ResourceRequirements(), SMALL, free)["limits"]
    assert plan_threads(cpu_limit(ResourceRequirements(limits={"cpu": "3900m"}), free), 0) == 3
    assert plan_threads("500m", 0) == 1
    assert plan_threads("8", 2) == 2
    assert cpu_limit(ResourceRequirements(requests={"cpu": "6"}), ClusterPods()) == "6"


@pytest.mark.parametrize(
    ("step", "at_least", "at_most"),
    [
        (specs.ResolveSpec(source=specs.Source()), 0, GIB),
        (specs.ConvertSpec(model=digest("m"), store="/s"), 0, GIB),
        (specs.QuantizeSpec(gguf=digest("m"), type="Q4_0", store="/s"), 0, GIB),
        (specs.BenchmarkSpec(gguf=digest("m"), store="/s"), 8 * GIB, 9 * GIB),
        (specs.EvaluateSpec(gguf=digest("m"), store="/s"), 8 * GIB, 9 * GIB),
    ],
)
def test_a_step_is_given_what_it_holds_and_not_what_it_only_reads(
    step: specs.AnySpec, at_least: int, at_most: int
) -> None:
    memory = step_memory(step, SHAPE, 8 * GIB)
    assert at_least <= memory.request_bytes <= at_most
    assert memory.limit_bytes > memory.request_bytes + memory.mapped_bytes


def test_the_logits_of_a_large_vocabulary_count() -> None:
    wide = SHAPE.model_copy(update={"vocab_size": 150_000})
    step = specs.EvaluateSpec(gguf=digest("m"), context_size=512, store="/s")
    benchmark = specs.BenchmarkSpec(gguf=digest("m"), store="/s")
    more = step_memory(step, wide, GIB).request_bytes - step_memory(benchmark, wide, GIB).request_bytes
    assert more > 3 * 4 * 512 * 150_000


def test_a_model_without_a_shape_is_given_its_size_and_more() -> None:
    assert engine_memory(4 * GIB, 0).request_bytes > 6 * GIB
    assert engine_memory(4 * GIB, 5 * GIB).request_bytes < 6 * GIB
    assert step_memory(specs.QuantizeSpec(gguf=digest("m"), type="Q4_0", store="/s"), None, GIB).request_bytes > 3 * GIB


def test_mebibytes_are_rounded_up() -> None:
    assert (format_mebibytes(1), format_mebibytes(2**20), format_mebibytes(2**20 + 1)) == ("1Mi", "1Mi", "2Mi")
    assert Memory(2**20).mapped_bytes == 0
