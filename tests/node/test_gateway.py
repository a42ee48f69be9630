"""The gateway on a real node: engines follow demand from zero and back, and nothing that is replaced cuts an answer."""

import itertools
import json
import os
from typing import Any

import pytest

from dev.demo.cluster_run import CALLERS, RESTRICTED, SYSTEM
from tests.node.asking import GatewayAsker
from tests.support.clusters import MakeNamespace
from tests.support.hub import Hub
from tests.support.installed import NODE_TESTS, Installed, Namespace, model, quant_job, service, until

pytestmark = NODE_TESTS
QUICK = {"minReplicas": 0, "maxReplicas": 2, "zeroAfterSeconds": 3, "scaleDownDelaySeconds": 0}
WIDE = {**QUICK, "maxReplicas": 4}
GATEWAY = "deployment/slm-operator-gateway"


@pytest.fixture(scope="module")
def asleep(installed: Installed, new_node_namespace: MakeNamespace, node_hub: Hub) -> Namespace:
    """A namespace with a service that has no engine while nobody asks."""
    place = Namespace(installed.cluster, new_node_namespace(RESTRICTED))
    place.apply(*CALLERS, model(node_hub), quant_job("Q8_0"), service(parallel=1, autoscaling=QUICK))
    place.wait_ready("InferenceService", "s")
    return place


def engines(place: Namespace) -> list[dict[str, Any]]:
    return place.list("pods", "-l", "slm.dev/network=serve")


def wait_for_zero(place: Namespace) -> None:
    until(lambda: place.ready("InferenceService", "s")[:2] == ("True", "ScaledToZero"), "it does not go to zero")
    until(lambda: not engines(place), "its engine stays")


def scaled(place: Namespace) -> list[str]:
    return [each["message"] for each in place.list("events") if each["reason"] == "Scaled"]


def test_from_zero_to_an_answer_to_four_engines_and_back(installed: Installed, asleep: Namespace) -> None:
    asleep.apply(service(parallel=1, autoscaling=WIDE))
    wait_for_zero(asleep)
    with GatewayAsker(asleep, "s", installed.images["slm-pipelines"], askers=1) as one:
        assert len(engines(asleep)) >= 1
    assert one.failures == []
    with GatewayAsker(asleep, "s", installed.images["slm-pipelines"], askers=12, tokens=64) as burst:
        until(lambda: asleep.get("InferenceService", "s")["status"].get("readyReplicas") == 4, "no four engines")
        burst.wait_for(10)
    assert burst.failures == []
    wait_for_zero(asleep)
    asleep.apply(service(parallel=1, autoscaling=QUICK))
    told = scaled(asleep)
    assert any(each.startswith("Scaled from 0 to 1 engines, as demand asks for: woken") for each in told), told
    assert any(" to 4 engines, as demand asks for" in each for each in told), told
    assert any(" to 0 engines, as demand asks for: no request for " in each for each in told), told


def test_no_stream_is_cut_whatever_is_replaced(installed: Installed, asleep: Namespace) -> None:
    """A thousand streams here; ten thousand where SLM_SOAK is set."""
    keep_asking(installed, asleep, 1_000)


@pytest.mark.soak
@pytest.mark.skipif(not os.environ.get("SLM_SOAK"), reason="ten thousand streams take half an hour: make soak")
def test_of_ten_thousand_streams_none_is_cut(installed: Installed, asleep: Namespace) -> None:
    keep_asking(installed, asleep, 10_000)


def keep_asking(installed: Installed, place: Namespace, wanted: int) -> None:
    """End and replace engines, gateways and the leader in turn, under a load that varies, until so many came."""
    cluster, image = installed.cluster, installed.images["slm-pipelines"]
    contexts = itertools.cycle((512, 256))

    def replace_engines() -> None:
        before = {each["metadata"]["name"] for each in engines(place)}
        place.apply(service(parallel=1, autoscaling=QUICK, contextSize=next(contexts)))
        until(lambda: before.isdisjoint(each["metadata"]["name"] for each in engines(place)), "old engines stay", 300)

    def replace_gateways() -> None:
        cluster.kubectl("-n", SYSTEM, "rollout", "restart", GATEWAY)
        cluster.kubectl("-n", SYSTEM, "rollout", "status", GATEWAY, "--timeout=300s")

    def kill_the_leader() -> None:
        lease = json.loads(cluster.kubectl("-n", SYSTEM, "get", "lease", "slm-operator", "-o", "json"))
        pod = lease["spec"]["holderIdentity"].partition("_")[0]
        cluster.kubectl("-n", SYSTEM, "delete", "pod", pod, "--grace-period=0", "--force")

    def crash_an_engine() -> None:
        place.kubectl("delete", "pod", engines(place)[0]["metadata"]["name"], "--grace-period=0", "--force")

    def ask_more_for_a_while() -> None:
        with GatewayAsker(place, "s", image, askers=6, tokens=64) as burst:
            burst.wait_for(30)
        assert burst.failures == []

    disturbances = (replace_engines, replace_gateways, crash_an_engine, kill_the_leader, ask_more_for_a_while)
    with GatewayAsker(place, "s", image, askers=3, tokens=8) as asker:
        for disturb in itertools.cycle(disturbances):
            disturb()
            asker.wait_for(20)
            assert asker.failures == []
            if len(asker.answers) >= wanted:
                break
    assert asker.failures == []


def test_a_sleeping_service_wakes_while_the_operator_is_replaced(installed: Installed, asleep: Namespace) -> None:
    wait_for_zero(asleep)
    installed.cluster.kubectl("-n", SYSTEM, "rollout", "restart", "deployment/slm-operator")
    with GatewayAsker(asleep, "s", installed.images["slm-pipelines"]) as asker:
        asker.wait_for(1)
    assert asker.failures == []
    installed.cluster.kubectl("-n", SYSTEM, "rollout", "status", "deployment/slm-operator", "--timeout=180s")
    wait_for_zero(asleep)


def test_who_may_no_longer_use_a_service_is_told_that_there_is_none(installed: Installed, asleep: Namespace) -> None:
    with GatewayAsker(asleep, "s", installed.images["slm-pipelines"]) as asker:
        asleep.kubectl("delete", "rolebinding", "callers")
        try:
            until(lambda: asker.failures, "it may still ask")
        finally:
            asleep.apply(*CALLERS)
    assert "404" in asker.failures[0]
    assert "model_not_found" in asker.failures[0]
