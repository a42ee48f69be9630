"""The gateway against a real API server: who may call is RBAC's word, or a Secret's."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dev.cluster.access import Access
from slm_operator.gateway.keys import format_key, hash_key
from tests.support.clusters import MakeNamespace
from tests.support.operator_process import free_port
from tests.support.stub_engine import StubEngine

ENGINE_HOST, ENGINE_PORT = "127.0.0.77", 8080
"""An address for the stub engine that looks like a pod's: with a port that the gateway takes for granted."""
QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "callers"},
    "rules": [
        {"apiGroups": ["slm.dev"], "resources": ["inferenceservices"], "resourceNames": ["chat"], "verbs": ["use"]}
    ],
}
KEY = format_key(b"k" * 32)


class Door:
    """The gateway's process, and requests to it."""

    def __init__(self, access: Access, folder: Path, namespace: str, **settings: str) -> None:
        self.kube, self.namespace = access, namespace
        self.port = free_port()
        self.log = folder / "gateway.log"
        self.audit = folder / "audit.jsonl"
        own = {"SLM_GATEWAY_PORT": str(self.port), "SLM_GATEWAY_METRICS_PORT": str(free_port())}
        own |= {"SLM_GATEWAY_NAMESPACE": namespace, "SLM_WATCH_NAMESPACES": namespace, **settings}
        others = {name: value for name, value in os.environ.items() if not name.startswith("SLM_")}
        self.environment = {**others, "KUBECONFIG": str(access.kubeconfig), **own}

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.kube.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    async def ask(self, token: str = "") -> Any:
        """Status of the answer, and its error's code or its content."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=QUESTION, headers=headers) as answer:
            told = await answer.json()
            found = told["error"]["code"] if "error" in told else told["choices"][0]["message"]["content"]
            return answer.status, found

    async def until(self, wanted: tuple[int, str], token: str) -> None:
        """Ask until the answer is this: keys and rights are remembered for a while."""
        async with asyncio.timeout(60):
            while (told := await self.ask(token)) != wanted:
                assert told[0] in {200, 401, 403, 404}, told
                await asyncio.sleep(0.5)


@asynccontextmanager
async def open_door(access: Access, folder: Path, namespace: str) -> AsyncIterator[Door]:
    door = Door(access, folder, namespace)
    process = start(door)
    try:
        await until_ready(door, process)
        yield door
    finally:
        process.terminate()
        process.wait(30)


def start(door: Door) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "slm_operator.handlers.gateway"]
    with door.log.open("wb") as log, door.audit.open("wb") as audit:
        return subprocess.Popen(command, env=door.environment, stdout=audit, stderr=log)


async def until_ready(door: Door, process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            assert process.poll() is None, door.log.read_text()
            try:
                async with session.get(f"http://127.0.0.1:{door.port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@pytest.fixture
async def door(control_plane: Access, new_namespace: MakeNamespace, tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway in front of a service with one engine that is ready."""
    namespace = new_namespace()
    engine = StubEngine(host=ENGINE_HOST)
    await engine.start(ENGINE_PORT)
    async with open_door(control_plane, tmp_path, namespace) as door:
        await asyncio.to_thread(make_service, door)
        yield door
    await engine.stop()


def make_service(door: Door) -> None:
    spec = {"modelRef": {"name": "tiny"}}
    service = {"apiVersion": "slm.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "chat"}, "spec": spec}
    labels = {"app.kubernetes.io/managed-by": "slm-operator", "slm.dev/kind": "InferenceService"}
    labels |= {"slm.dev/name": "chat", "slm.dev/step": "serve"}
    containers = [{"name": "engine", "image": "none"}]
    # Nobody schedules it, so nobody but this test writes its status.
    pod_spec = {"containers": containers, "schedulerName": "none"}
    metadata = {"name": "chat-0", "labels": labels, "annotations": {"slm.dev/digest": "sha256:" + "d" * 64}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec}
    door.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, (service, pod))))
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": ENGINE_HOST, "podIPs": [{"ip": ENGINE_HOST}]}
    door.kubectl("patch", "pod", "chat-0", "--subresource=status", "--type=merge", "-p", json.dumps({"status": ready}))


def secret(**fields: str) -> str:
    data = {name: base64.b64encode(value.encode()).decode() for name, value in fields.items()}
    metadata = {"name": "ci", "labels": {"slm.dev/api-key": "true"}}
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})


async def test_a_service_account_may_call_what_rbac_lets_it_use_and_nothing_else(door: Door) -> None:
    await asyncio.to_thread(door.kubectl, "create", "serviceaccount", "app")
    foreign = await asyncio.to_thread(door.kubectl, "create", "token", "app")
    token = await asyncio.to_thread(door.kubectl, "create", "token", "app", "--audience=slm.dev")
    assert await door.ask() == (401, "invalid_api_key")
    assert await door.ask(foreign) == (401, "invalid_api_key"), "a token for the API server is none for the gateway"
    assert await door.ask(token) == (404, "model_not_found"), "nobody said that it may"
    await asyncio.to_thread(door.kubectl, "apply", "-f", "-", stdin=json.dumps(ROLE))
    who = ("--role=callers", f"--serviceaccount={door.namespace}:app")
    await asyncio.to_thread(door.kubectl, "create", "rolebinding", "callers", *who)
    await door.until((200, "t0 t1 t2"), token)
    await asyncio.to_thread(door.kubectl, "delete", "serviceaccount", "app")
    other = await asyncio.to_thread(
        door.kube.kubectl, "-n", door.namespace, "create", "token", "default", "--audience=slm.dev"
    )
    assert await door.ask(other) == (404, "model_not_found")
    lines = [json.loads(line) for line in door.audit.read_text().splitlines()]
    (answered,) = [line for line in lines if line["status"] == 200]
    assert answered["caller"] == f"system:serviceaccount:{door.namespace}:app"
    assert (answered["service"], answered["digest"]) == (f"{door.namespace}/chat", "sha256:" + "d" * 64)


async def test_an_api_key_works_while_its_secret_says_so(door: Door) -> None:
    assert await door.ask(KEY) == (401, "invalid_api_key")
    await asyncio.to_thread(door.kubectl, "apply", "-f", "-", stdin=secret(sha256=hash_key(KEY), models="chat"))
    await door.until((200, "t0 t1 t2"), KEY)
    stdin = secret(sha256=hash_key(KEY), models="other")
    await asyncio.to_thread(door.kubectl, "apply", "-f", "-", stdin=stdin)
    await door.until((404, "model_not_found"), KEY)
    await asyncio.to_thread(door.kubectl, "apply", "-f", "-", stdin=secret(sha256="none", models="chat"))
    await door.until((401, "invalid_api_key"), KEY)
    assert "an API key does not work: Secret" in door.log.read_text()


async def test_a_service_that_goes_is_not_found_any_more(door: Door) -> None:
    await asyncio.to_thread(door.kubectl, "apply", "-f", "-", stdin=secret(sha256=hash_key(KEY), models="chat"))
    await door.until((200, "t0 t1 t2"), KEY)
    await asyncio.to_thread(door.kubectl, "delete", "inferenceservice", "chat")
    await door.until((404, "model_not_found"), KEY)
