"""A service on a real node while its engines are replaced, and while its node is drained."""

import re

import pytest

from dev.demo.cluster_run import RESTRICTED
from tests.node.asking import Asker
from tests.support.clusters import MakeNamespace
from tests.support.hub import Hub
from tests.support.installed import (
    NODE_TESTS,
    Installed,
    Namespace,
    drain,
    model,
    quant_job,
    service,
    uncordoned_afterwards,
    until,
)

pytestmark = NODE_TESTS


@pytest.fixture(scope="module")
def serving(installed: Installed, new_node_namespace: MakeNamespace, node_hub: Hub) -> Namespace:
    """A namespace with a service that answers."""
    place = Namespace(installed.cluster, new_node_namespace(RESTRICTED))
    place.apply(model(node_hub), quant_job("Q8_0"), service())
    place.wait_ready("InferenceService", "s")
    return place


def engine_names(place: Namespace) -> set[str]:
    return {pod["metadata"]["name"] for pod in place.list("pods", "-l", "slm.dev/network=serve")}


def test_no_request_fails_while_engines_are_replaced_and_the_event_says_why(
    installed: Installed, serving: Namespace
) -> None:
    before = engine_names(serving)
    with Asker(serving, "s", installed.images["slm-pipelines"]) as asker:
        serving.apply(service(contextSize=512))
        until(lambda: serving.ready("InferenceService", "s")[1] == "RollingOut", "the rollout begins")
        message = serving.ready("InferenceService", "s")[2]
        until(lambda: serving.ready("InferenceService", "s")[0] == "True", "the rollout ends")
        until(lambda: engine_names(serving).isdisjoint(before), "the engines from before end")
        asker.wait_for(10)
    assert asker.failures == []
    assert len(asker.answers) > 10
    assert message.startswith("New engines are starting, because --ctx-size changes from 1024 to 2048.")
    told = [each["message"] for each in serving.list("events") if each["reason"] == "RollingOut"]
    assert any("because --ctx-size changes from 1024 to 2048" in each for each in told)


def test_a_service_that_fits_on_no_node_says_by_how_much_and_answers_once_it_does(serving: Namespace) -> None:
    serving.apply(service("large", resources={"requests": {"memory": "900Gi"}}))
    until(lambda: serving.ready("InferenceService", "large")[1] == "DoesNotFit", "nobody says that it does not fit")
    message = serving.ready("InferenceService", "large")[2]
    assert "Insufficient memory" in message, "the scheduler's own word"
    assert "The engine needs 900.00 GiB, as spec.resources says, and fits on no node: CPU and " in message
    most = re.search(r"It would fit with spec.resources.requests.memory of at most (\d+)Mi", message)
    assert most
    assert 256 < int(most[1]) < 900 * 1024
    serving.apply(service("large"))
    serving.wait_ready("InferenceService", "large")
    serving.kubectl("delete", "slmsvc", "large")


def test_a_service_whose_node_is_drained_says_what_it_waits_for_and_answers_again(
    installed: Installed, serving: Namespace
) -> None:
    image, before = installed.images["slm-pipelines"], engine_names(serving)
    with Asker(serving, "s", image) as asker:
        first = asker.answers[0]
    with uncordoned_afterwards(installed.cluster):
        drain(installed.cluster)
        until(lambda: serving.ready("InferenceService", "s")[1] == "PodWaiting", "nobody says that it waits")
        message = serving.ready("InferenceService", "s")[2]
    assert "An engine cannot start: " in message
    assert "unschedulable" in message
    until(lambda: serving.ready("InferenceService", "s")[0] == "True", "it answers again")
    assert engine_names(serving).isdisjoint(before)
    with Asker(serving, "s", image) as asker:
        assert asker.answers[0] == first
    assert asker.failures == []
