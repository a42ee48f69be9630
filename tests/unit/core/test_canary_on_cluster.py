"""What of a canary lies beside a service's other children, and what becomes of one whose name is taken."""

from typing import Any

from slm_operator.core.plan import ObjectKey
from tests.support.planning import SERVICE, manifest, succeed
from tests.unit.core.test_on_cluster import DEPLOYMENT, serving


async def test_a_change_that_is_tried_runs_beside_what_is_served_and_is_selected_by_nothing_of_it() -> None:
    rollout: dict[str, Any] = {"rollout": {"canary": {}}}
    made = await serving(replicas=2, **rollout)
    served = made.cluster.objects[DEPLOYMENT]["spec"]
    await made.put(manifest("InferenceService", "s", {**SERVICE["spec"], **rollout, "replicas": 3, "contextSize": 512}))
    await made.settle(succeed)
    assert made.told("InferenceService", "s")[0] == "CanaryRunning"
    canary = made.cluster.objects[ObjectKey("Deployment", "default", "s-canary")]["spec"]
    now = made.cluster.objects[DEPLOYMENT]["spec"]
    assert (now["template"], now["replicas"], canary["replicas"]) == (served["template"], 3, 1)
    (spread,) = canary["template"]["spec"]["topologySpreadConstraints"]
    labels = canary["template"]["metadata"]["labels"]
    budget = made.cluster.objects[ObjectKey("PodDisruptionBudget", "default", "s")]["spec"]
    address = made.cluster.objects[ObjectKey("Service", "default", "s")]["spec"]
    for mine in (canary["selector"]["matchLabels"], spread["labelSelector"]["matchLabels"]):
        assert mine.items() <= labels.items()
    for theirs in (now["selector"]["matchLabels"], budget["selector"]["matchLabels"], address["selector"]):
        assert not theirs.items() <= labels.items()
    assert labels["slm.dev/network"] == "serve", "the network policy of engines holds"
    assert await made.look() == 0


async def test_a_canary_that_somebody_else_has_the_name_of_is_refused() -> None:
    made = await serving(rollout={"canary": {}})
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "s-canary"}, "spec": {}}
    await made.cluster.create(theirs)
    spec = {**SERVICE["spec"], "rollout": {"canary": {}}, "contextSize": 512}
    await made.put(manifest("InferenceService", "s", spec))
    await made.look()
    message = "Deployment/default/s-canary exists and belongs to somebody else: rename it or this InferenceService."
    assert made.told("InferenceService", "s") == ("NameConflict", message)
    assert made.cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["command"].count("8192") == 1
