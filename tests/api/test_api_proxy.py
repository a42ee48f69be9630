"""The proxy for faults, between a real client and a real API server."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import aiohttp
import pytest
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from dev.cluster.access import Access
from tests.support.api_calls import READS, WRITES
from tests.support.api_faults import Fault, gone
from tests.support.api_proxy import ApiProxy

CREATES = frozenset({"create"})


@pytest.fixture(scope="module")
def shared(control_plane: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProxy]:
    with ApiProxy(control_plane.kubeconfig, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared: ApiProxy) -> Iterator[ApiProxy]:
    shared.reset()
    yield shared
    shared.heal()


@pytest.fixture
async def core(proxy: ApiProxy) -> AsyncIterator[client.CoreV1Api]:
    """A client of the API server through the proxy."""
    settings = client.Configuration()
    await config.load_kube_config(config_file=str(proxy.kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
    async with client.ApiClient(settings) as api:
        yield client.CoreV1Api(api)


def config_map(name: str) -> Any:
    return {"metadata": {"name": name}, "data": {"key": "value"}}


async def names(core: client.CoreV1Api, namespace: str) -> set[str]:
    found = await core.list_namespaced_config_map(namespace)
    return {str(item.metadata.name) for item in found.items if item.metadata}


async def test_calls_pass_and_are_counted(proxy: ApiProxy, core: client.CoreV1Api, namespace: str) -> None:
    await core.create_namespaced_config_map(namespace, config_map("passes"))
    patched = await core.patch_namespaced_config_map("passes", namespace, {"data": {"key": "other"}})
    assert patched.data == {"key": "other"}
    assert "passes" in await names(core, namespace)
    await core.delete_namespaced_config_map("passes", namespace)
    with pytest.raises(ApiException) as missing:
        await core.read_namespaced_config_map("passes", namespace)
    assert missing.value.reason == "Not Found"
    writes = {"create configmaps": 1, "patch configmaps": 1, "delete configmaps": 1}
    assert proxy.count(WRITES) == writes
    assert proxy.count(READS) == {"list configmaps": 1, "get configmaps": 1}
    assert [each.status for each in proxy.records()] == [201, 200, 200, 200, 404]


async def test_a_refused_write_was_not_done(proxy: ApiProxy, core: client.CoreV1Api, namespace: str) -> None:
    proxy.inject(Fault(status=429, retry_after_seconds=7, verbs=CREATES, limit=1))
    with pytest.raises(ApiException) as refused:
        await core.create_namespaced_config_map(namespace, config_map("refused"))
    assert (refused.value.status, (refused.value.headers or {})["Retry-After"]) == (429, "7")
    body = json.loads(refused.value.body or "")
    assert (body["reason"], body["message"]) == ("TooManyRequests", "injected: create configmaps")
    assert "refused" not in await names(core, namespace)
    await core.create_namespaced_config_map(namespace, config_map("refused"))


@pytest.mark.parametrize(("status", "name"), [(500, "lost-500"), (409, "lost-409")])
async def test_a_lost_answer_hides_a_write_that_was_done(
    proxy: ApiProxy, core: client.CoreV1Api, namespace: str, status: int, name: str
) -> None:
    proxy.inject(Fault(status=status, after=True, verbs=CREATES))
    with pytest.raises(ApiException) as lost:
        await core.create_namespaced_config_map(namespace, config_map(name))
    assert lost.value.status == status
    assert name in await names(core, namespace)
    assert [(each.status, each.reached) for each in proxy.records()] == [(status, True), (200, True)]


@pytest.mark.parametrize(("after", "name"), [(False, "dropped-before"), (True, "dropped-after")])
async def test_a_dropped_connection_says_nothing(
    proxy: ApiProxy, core: client.CoreV1Api, namespace: str, name: str, *, after: bool
) -> None:
    proxy.inject(Fault(drop=True, after=after, verbs=CREATES))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await core.create_namespaced_config_map(namespace, config_map(name))
    assert (name in await names(core, namespace)) is after


@pytest.mark.parametrize("after", [False, True])
async def test_answers_can_be_slow(proxy: ApiProxy, core: client.CoreV1Api, namespace: str, *, after: bool) -> None:
    began = time.monotonic()
    with proxy.faults(Fault(delay_seconds=2, after=after, verbs=READS)):
        assert await names(core, namespace)
    assert time.monotonic() - began >= 2
    began = time.monotonic()
    await names(core, namespace)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("clean", [False, True])
async def test_a_watch_streams_until_it_is_cut(
    proxy: ApiProxy, core: client.CoreV1Api, namespace: str, *, clean: bool
) -> None:
    name = f"streamed-{clean}".lower()
    url = f"{core.api_client.configuration.host}/api/v1/namespaces/{namespace}/configmaps"
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        async with session.get(url, params={"watch": "1"}) as stream:
            await core.create_namespaced_config_map(namespace, config_map(name))
            while name.encode() not in await stream.content.readline():
                pass
            assert proxy.watching() == {"configmaps": 1}
            assert proxy.cut_watches(["pods"]) == 0
            assert proxy.cut_watches(["configmaps"], clean=clean) == 1
            if clean:
                assert await stream.content.read() == b""
            else:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await stream.content.read()
        while proxy.watching():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["status", "event"])
async def test_a_watch_that_is_too_old_is_told_so_once(
    proxy: ApiProxy, core: client.CoreV1Api, namespace: str, how: Literal["status", "event"]
) -> None:
    proxy.inject(gone(how))
    url = f"{core.api_client.configuration.host}/api/v1/namespaces/{namespace}/configmaps"
    watch = {"watch": "1", "timeoutSeconds": "1"}
    async with aiohttp.ClientSession() as session:
        async with session.get(url, params=watch) as answer:
            told = json.loads(await answer.read())
        async with session.get(url, params=watch) as later:
            assert b"ERROR" not in await later.read()
    assert (answer.status, later.status) == (200 if how == "event" else 410, 200)
    status = told["object"] if how == "event" else told
    assert (status["code"], status["reason"], status["message"]) == (410, "Expired", "injected: watch configmaps")


async def test_a_client_is_whom_its_own_token_says(
    control_plane: Access, proxy: ApiProxy, core: client.CoreV1Api, namespace: str
) -> None:
    token = control_plane.kubectl("create", "token", "default", "-n", namespace).strip()
    core.api_client.default_headers["Authorization"] = f"Bearer {token}"
    with pytest.raises(ApiException) as refused:
        await core.list_namespaced_config_map(namespace)
    assert refused.value.status == 403
    assert f"system:serviceaccount:{namespace}:default" in json.loads(refused.value.body or "")["message"]
    assert proxy.count() == {"list configmaps": 1}


async def test_upgrades_are_refused_and_kubectl_works(control_plane: Access, proxy: ApiProxy, namespace: str) -> None:
    through = Access(proxy.kubeconfig, control_plane.command)
    assert "default" in through.kubectl("get", "serviceaccounts", "-n", namespace)
    with pytest.raises(subprocess.CalledProcessError):
        through.kubectl("exec", "-n", namespace, "nobody", "--", "true")
