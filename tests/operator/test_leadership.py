"""Two replicas: one acts, the other takes over, and never both."""

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.access import Access
from tests.support.operator_process import OperatorProcess, free_port

MODEL = """
apiVersion: slm.dev/v1alpha1
kind: SLMModel
metadata: {{name: {name}}}
spec: {{source: {{huggingFace: {{repo: a/b}}}}}}
"""
TAKEOVER_SECONDS = 15
"""What is promised with the default Lease of ten seconds."""


class Pair:
    """Two replicas of one operator in a namespace of their own."""

    def __init__(self, cluster: Access, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = f"pair-{uuid.uuid4().hex[:8]}"
        cluster.kubectl("create", "namespace", self.namespace)
        own = {"SLM_WATCH_NAMESPACES": self.namespace, "SLM_OPERATOR_NAMESPACE": self.namespace}
        own["SLM_STORE_CLASS"] = "none"  # A control plane without a node has no class of its own.
        self.replicas = [OperatorProcess(folder, cluster.kubeconfig, free_port(), **own) for _ in range(2)]
        for each in self.replicas:
            each.start()
        for each in self.replicas:
            each.wait_ready(120)

    def leader(self) -> OperatorProcess:
        """The replica that acts; there must never be two."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            leading = [each for each in self.replicas if each.process and each.leads()]
            assert len(leading) <= 1
            if leading:
                return leading[0]
            time.sleep(0.1)
        raise AssertionError("nobody leads")

    def acts_within(self, name: str, seconds: float) -> None:
        """A new object gets its first status in time."""
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=MODEL.format(name=name))
        self.cluster.kubectl(
            "wait", "-n", self.namespace, f"slmmodel/{name}", "--for=condition=Reconciling", f"--timeout={seconds}s"
        )


@pytest.fixture
def pair(control_plane: Access, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(control_plane, tmp_path)
    yield made
    for each in made.replicas:
        each.kill()
    control_plane.kubectl("delete", "namespace", made.namespace, "--wait=false")


def test_the_second_acts_within_fifteen_seconds_of_the_first_ones_death(pair: Pair) -> None:
    first = pair.leader()
    pair.acts_within("before", 20)
    first.kill()
    pair.acts_within("after", TAKEOVER_SECONDS)
    second = pair.leader()
    assert second is not first
    first.start()
    first.wait_ready(120)
    time.sleep(3)
    assert pair.leader() is second, "who comes back waits"


def test_a_leader_that_is_told_to_stop_hands_over_at_once(pair: Pair) -> None:
    first = pair.leader()
    assert first.stop() == 0
    lease = pair.cluster.kubectl(
        "get", "lease", "-n", pair.namespace, "slm-operator", "-o", "jsonpath={.spec.leaseTransitions}"
    )
    pair.acts_within("after", 10)
    assert pair.leader() is not first
    assert int(lease) >= 1


def test_a_standby_writes_nothing(pair: Pair) -> None:
    leader = pair.leader()
    (standby,) = (each for each in pair.replicas if each is not leader)
    pair.acts_within("one", 20)
    requests = standby.metrics("slm_operator_api_requests_total")
    # Of two that begin at once, both ask for the Lease.
    written = [labels for labels in requests if 'verb="GET"' not in labels and 'resource="leases"' not in labels]
    assert written == []
    assert any('resource="slmmodels/status"' in labels for labels in leader.metrics("slm_operator_api_requests_total"))
    assert standby.get("/readyz")[0] == 200
    assert standby.get("/healthz")[0] == 200


def test_without_an_api_server_it_says_so(control_plane: Access, tmp_path: Path) -> None:
    lonely = tmp_path / "kubeconfig"
    lonely.write_text(re.sub(r"https://\S+", "https://127.0.0.1:1", control_plane.kubeconfig.read_text()))
    operator = OperatorProcess(tmp_path, lonely, free_port())
    operator.start()
    assert operator.process is not None
    assert operator.process.wait(timeout=30) == 1
    (line,) = operator.lines()
    assert str(line["message"]).startswith("The API server did not answer GET /apis/slm.dev/v1alpha1:")
