import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.ports import Manifest, ObjectKey
from tests.local.kubelet_support import daemon_argv, kubelet, until, until_true

KEY = ObjectKey("Deployment", "default", "engine")
SERVICE_KEY = ObjectKey("Service", "default", "engine")
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def do_GET(self):
        body = os.environ["ANSWER"].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def deployment(answer: str = "one", replicas: int = 1, **container: Any) -> Manifest:
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1}
    main = {
        "name": "engine",
        "command": [sys.executable, "-c", SERVER],
        "args": ["$(PORT)"],
        "env": [{"name": "ANSWER", "value": answer}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {**probe, "failureThreshold": 30},
        "readinessProbe": probe,
        **container,
    }
    template = {
        "metadata": {"labels": {"app": "engine"}},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 5},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "engine"}}, "template": template}
    meta = {"name": "engine", "namespace": "default"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def service() -> Manifest:
    spec = {"selector": {"app": "engine"}, "ports": [{"port": 80, "targetPort": "http"}]}
    meta = {"name": "engine", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def ready(count: int) -> Any:
    return lambda status: status.get("readyReplicas") == count


async def ask(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    return answer.rpartition("\r\n\r\n")[2]


async def address(cluster: SqliteCluster) -> int:
    found = await until(cluster, SERVICE_KEY, lambda status: status.get("loadBalancer"))
    return int(found["status"]["loadBalancer"]["ingress"][0]["ports"][0]["port"])


async def only_pod(cluster: SqliteCluster) -> Manifest:
    (pod,) = await cluster.list("Pod")
    return pod


async def test_a_deployment_becomes_available_and_scales_to_zero(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(deployment())
        found = await until(cluster, KEY, ready(1))
        available = found["status"]["conditions"][0]
        assert (available["type"], available["status"]) == ("Available", "True")
        assert (available["reason"], available["message"]) == ("MinimumReplicasAvailable", "1 of 1 replicas are ready.")
        assert found["status"]["observedGeneration"] == 1
        pid = (await only_pod(cluster))["status"]["processId"]
        await cluster.apply(deployment(replicas=0))
        await until(cluster, KEY, lambda status: status.get("replicas") == 0)
        await until_true(lambda: not psutil.pid_exists(pid))


async def test_a_second_look_writes_nothing(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(deployment())
        await cluster.apply(service())
        await until(cluster, KEY, ready(1))
        await address(cluster)
        await asyncio.sleep(0.5)
        kinds = ("Deployment", "Pod", "Service")
        before = [await cluster.list(kind) for kind in kinds]
        await asyncio.sleep(1.5)
        assert [await cluster.list(kind) for kind in kinds] == before


async def test_a_killed_engine_is_healed_without_a_refused_connection(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(deployment())
        await cluster.apply(service())
        await until(cluster, KEY, ready(1))
        port = await address(cluster)
        assert await ask(port) == "one"
        pod = await only_pod(cluster)
        engine = psutil.Process(pod["status"]["processId"]).children()[0]
        engine.kill()
        await asyncio.to_thread(engine.wait)
        assert await ask(port) == "one"
        key = ObjectKey("Pod", "default", pod["metadata"]["name"])
        healed = await until(cluster, key, lambda status: status["containerStatuses"][0]["ready"])
        container = healed["status"]["containerStatuses"][0]
        assert container["restartCount"] == 1
        assert container["lastState"]["terminated"]["exitCode"] == 137
        (event,) = await cluster.events("default", key)
        assert (event["type"], event["reason"]) == ("Warning", "Restarted")
        assert event["message"] == "The process ended with exit code 137 and was started again at once."


async def test_an_engine_that_keeps_crashing_waits_longer_each_time(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        command: dict[str, Any] = {"command": ["sh", "-c", "echo no memory >&2; exit 3"], "args": []}
        await cluster.apply(deployment(**command, terminationMessagePolicy="FallbackToLogsOnError"))
        await until(cluster, KEY, lambda status: status.get("replicas") == 1)
        pod = await only_pod(cluster)
        key = ObjectKey("Pod", "default", pod["metadata"]["name"])

        def waiting(status: dict[str, Any]) -> bool:
            return "waiting" in status["containerStatuses"][0]["state"] if status else False

        found = await until(cluster, key, waiting)
        container = found["status"]["containerStatuses"][0]
        assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert container["state"]["waiting"]["message"] == (
            "back-off 1 s restarting the process, which ended with exit code 3"
        )
        assert "no memory" in container["lastState"]["terminated"]["message"]
        assert [each["reason"] for each in await cluster.events("default", key)] == ["Restarted", "BackOff"]


async def test_a_failed_liveness_probe_restarts_the_process(tmp_path: Path) -> None:
    probe = {"httpGet": {"path": "/", "port": 1}, "periodSeconds": 0.1, "failureThreshold": 2}
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(deployment(livenessProbe=probe))
        await until(cluster, KEY, lambda status: status.get("replicas") == 1)
        key = ObjectKey("Pod", "default", (await only_pod(cluster))["metadata"]["name"])
        await until(cluster, key, lambda status: status and status["containerStatuses"][0]["restartCount"] > 0)
        (event,) = [each for each in await cluster.events("default", key) if each["reason"] == "Unhealthy"][:1]
        assert event["message"].startswith("liveness probe failed: ")


async def test_an_engine_beyond_its_memory_limit_is_killed_and_says_so(tmp_path: Path) -> None:
    greedy = "import time; held = bytearray(200 << 20); time.sleep(600)"
    async with kubelet(tmp_path) as cluster:
        limits = {"limits": {"memory": "100Mi"}}
        await cluster.apply(deployment(command=[sys.executable, "-c", greedy], args=[], resources=limits))
        await until(cluster, KEY, lambda status: status.get("replicas") == 1)
        key = ObjectKey("Pod", "default", (await only_pod(cluster))["metadata"]["name"])
        found = await until(cluster, key, lambda status: status and status["containerStatuses"][0]["lastState"])
        ended = found["status"]["containerStatuses"][0]["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
        assert "more than its limit of 100Mi: raise the limit." in ended["message"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_change_in_the_moment_of_the_stop_does_not_keep_the_kubelet_running(tmp_path: Path, turns: int) -> None:
    async with asyncio.timeout(10), kubelet(tmp_path) as cluster:
        await cluster.apply(deployment(replicas=0))
        await until(cluster, KEY, lambda status: status.get("observedGeneration") == 1)
        await cluster.apply(deployment("two", replicas=0))
        for _ in range(turns):  # Each turn of the event loop brings the news of the change one wait further.
            await asyncio.sleep(0)


async def test_a_rolling_update_refuses_and_drops_no_request(tmp_path: Path) -> None:
    answers: list[str] = []
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(deployment("one", replicas=2))
        await cluster.apply(service())
        await until(cluster, KEY, ready(2))
        port = await address(cluster)

        async def load() -> None:
            while True:
                answers.append(await ask(port))
                await asyncio.sleep(0.01)

        task = asyncio.create_task(load())
        await cluster.apply(deployment("two", replicas=2))

        def rolled(status: dict[str, Any]) -> bool:
            return bool(status["observedGeneration"] == 2 and status["updatedReplicas"] == status["replicas"] == 2)

        await until(cluster, KEY, rolled)
        seen = len(answers)
        await until_true(lambda: len(answers) > seen + 5 or task.done())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert set(answers) == {"one", "two"}
        assert answers[-1] == "two"


async def test_a_killed_daemon_leaves_the_engine_and_the_next_adopts_it_on_the_same_port(tmp_path: Path) -> None:
    cluster = SqliteCluster(tmp_path / "slm.sqlite")
    await cluster.apply(deployment())
    await cluster.apply(service())
    daemon = await asyncio.create_subprocess_exec(*daemon_argv(tmp_path))
    await until(cluster, KEY, ready(1))
    port, before = await address(cluster), await only_pod(cluster)
    daemon.kill()
    await daemon.wait()
    async with kubelet(tmp_path):
        await asyncio.sleep(0.3)
        assert await ask(port) == "one"
        await until(cluster, KEY, ready(1))
        after = await only_pod(cluster)
        assert after["metadata"]["name"] == before["metadata"]["name"]
        assert after["status"]["processId"] == before["status"]["processId"]
        assert after["status"]["containerStatuses"][0]["restartCount"] == 0
        assert await address(cluster) == port
