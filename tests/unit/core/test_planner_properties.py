"""Planners are deterministic and idempotent, whatever is asked and whatever happened."""

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_contract.reasons import Reason
from tests.support.planning import World, fail, manifest, succeed

TYPES = ["Q4_0", "Q5_1", "Q8_0", "Q4_K_M", "IQ4_XS"]
optional = st.none() | st.floats(0, 1)


def drop_nones(value: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if item is not None}


models = st.builds(
    lambda suspend, licences: manifest(
        "SLMModel",
        "m",
        {"source": {"huggingFace": {"repo": "o/n"}}, "suspend": suspend, "license": {"allow": licences}},
    ),
    st.booleans(),
    st.lists(st.sampled_from(["mit", "apache-2.0"]), max_size=2),
)
gates = st.builds(
    lambda kld, top, ppl: drop_nones({"maxKLDivergence": kld, "minTopOneAgreement": top, "maxPerplexityIncrease": ppl}),
    optional,
    optional,
    optional,
)
goals = st.builds(
    lambda memory, prefer: drop_nones({"maxMemory": memory, "prefer": prefer}),
    st.none() | st.sampled_from(["1Ki", "900m", "64Mi", "2Gi"]),
    st.sampled_from(["smallest", "fastest", "closest"]),
)
quant_jobs = st.builds(
    lambda variants, gate, goal, bench, suspend: manifest(
        "QuantJob",
        "q",
        {
            "modelRef": {"name": "m"},
            "variants": variants,
            "gate": gate,
            "goal": goal,
            "benchmark": {"enabled": bench or (goal or {}).get("prefer") == "fastest"},
            "suspend": suspend,
        },
    ),
    st.lists(st.sampled_from(TYPES), unique=True, max_size=4),
    gates,
    goals,
    st.booleans(),
    st.booleans(),
)
services = st.builds(
    lambda ref, replicas, slots: manifest("InferenceService", "s", {**ref, "replicas": replicas, "parallel": slots}),
    st.sampled_from(
        [{"modelRef": {"name": "m"}}, {"quantJobRef": {"name": "q"}}, {"quantJobRef": {"name": "q", "variant": "Q8_0"}}]
    ),
    st.integers(0, 3),
    st.integers(1, 8),
)
failures = st.dictionaries(
    st.sampled_from(["resolve", "acquire", "convert", "quantize", "evaluate", "benchmark", "report"]),
    st.sampled_from([None, *Reason]),
    max_size=2,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(["m", "q", "s"]), models, quant_jobs, services, failures)
def test_planning_twice_gives_the_same_and_a_settled_world_needs_nothing(
    order: list[str],
    model: dict[str, Any],
    quant: dict[str, Any],
    service: dict[str, Any],
    broken: dict[str, Reason | None],
) -> None:
    made = World()
    for name in order:
        made.put({"m": model, "q": quant, "s": service}[name])

    def answer(label: str) -> Any:
        step = label.partition("-")[0]
        if step not in broken:
            return succeed(label)
        reason = broken[step]
        return None if reason is None else fail(reason, "because")

    made.settle(answer)
    for key in [key for key in made.objects if key.kind in {"SLMModel", "QuantJob", "InferenceService"}]:
        frozen = copy.deepcopy(made.objects)
        plan = made.plan(key)
        assert plan == made.plan(key)
        assert made.objects == frozen, "a planner changed what it was shown"
        assert made.execute(key, plan) == 0
        assert plan.events == ()
        assert plan.status is not None
        holds = {item["type"] for item in plan.status["conditions"] if item["status"] == "True"}
        assert len(holds & {"Ready", "Reconciling", "Stalled"}) <= 1
