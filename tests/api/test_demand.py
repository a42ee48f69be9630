"""Gateways' reports of demand: heard from whoever the API server knows as a gateway, and from nobody else."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dev.cluster.access import Access
from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from slm_operator.core.answers import Answers
from slm_operator.gateway.admission import Admissions
from slm_operator.gateway.reporting import Reporter
from slm_operator.handlers import demand, telling
from slm_operator.handlers.demand import NAME_HEADER, DemandEndpoint
from slm_operator.handlers.telling import Teller
from slm_operator.ports import ObjectKey
from slm_operator.reconcile.autoscaler import Autoscaler, Load
from tests.support.clusters import MakeNamespace

KEY, NAME = ObjectKey("InferenceService", "team", "chat"), "gateway-1"


class Heard(Autoscaler):
    """What one replica of the operator heard."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Mapping[ObjectKey, Load]] = []
        self.lost: list[str] = []

    def report(self, gateway: str, loads: Mapping[ObjectKey, Load], *, whole: bool = False) -> None:
        assert gateway == NAME
        self.reports.append(loads)
        super().report(gateway, loads, whole=whole)

    def lose(self, gateway: str) -> None:
        self.lost.append(gateway)
        super().lose(gateway)

    def held(self) -> dict[str, int]:
        """Requests that are known of each service."""
        return {key.name: known.demand.total for key, known in self._services.items()}


class Held(Admissions):
    """What the gateway holds."""

    def __init__(self) -> None:
        self.now: dict[str, tuple[int, int, int]] = {}

    def loads(self) -> dict[str, tuple[int, int, int]]:
        return self.now

    def answers(self) -> dict[str, Answers]:
        return {}


class Site:
    """A namespace with a gateway's account and another's, and replicas that listen."""

    def __init__(self, access: Access, namespace: str, client: KubeClient) -> None:
        self.access, self.namespace, self.client = access, namespace, client

    async def token(self, account: str, audience: str = demand.AUDIENCE) -> str:
        arguments = ("-n", self.namespace, "create", "token", account, f"--audience={audience}")
        return (await asyncio.to_thread(self.access.kubectl, *arguments)).strip()

    @asynccontextmanager
    async def replica(self, heard: Heard, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
        """Its port."""
        app = web.Application()
        app.router.add_post(demand.PATH, DemandEndpoint(self.client, f"{self.namespace}/gateway", heard).hear)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        try:
            yield site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        finally:
            await runner.cleanup()


@pytest.fixture
async def site(
    control_plane: Access, new_namespace: MakeNamespace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    namespace = new_namespace()
    for account in ("gateway", "app"):
        control_plane.kubectl("-n", namespace, "create", "serviceaccount", account)
    async with open_api() as api:
        yield Site(control_plane, namespace, KubeClient(api, Always(), lambda *_: None))


async def until(holds: Any, what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(what)


async def post(port: int, token: str, body: Any = b"", name: str = NAME) -> int:
    headers = {NAME_HEADER: name} | ({"Authorization": f"Bearer {token}"} if token else {})
    url = f"http://127.0.0.1:{port}/demand"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def test_only_a_gateways_token_for_this_very_purpose_is_heard(site: Site) -> None:
    heard = Heard()
    async with site.replica(heard) as port:
        line = b'{"team/chat": [1, 2, 3]}\n'
        assert await post(port, "", line) == 401
        assert await post(port, "nonsense", line) == 401
        assert await post(port, await site.token("gateway", "slm.dev"), line) == 401, "a token for callers"
        assert await post(port, await site.token("app"), line) == 403
        assert await post(port, await site.token("gateway"), line, name="") == 400
        assert heard.reports == []
        assert await post(port, await site.token("gateway"), line) == 204
    assert heard.reports == [{KEY: Load(1, 2, 3)}]
    assert heard.lost == [NAME], "a request that ends is a gateway that has ended"


@pytest.mark.parametrize(
    "line",
    [
        b"x\n",
        b"[1]\n",
        b'{"team/chat": 1}\n',
        b'{"team/chat": [1, 2, "x"]}\n',
        b"7\n",
        b'{"a": [1, 2, Infinity]}\n',
        b"[" * 9999 + b"\n",
        b"x" * 2**23,
    ],
)
async def test_what_is_no_report_is_refused(site: Site, line: bytes) -> None:
    heard = Heard()
    async with site.replica(heard) as port:
        assert await post(port, await site.token("gateway"), line) == 400
        assert heard.reports == []


async def test_who_asks_while_too_many_wait_is_told_to_come_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "WAITING", 0)
    async with site.replica(heard := Heard()) as port:
        assert await post(port, await site.token("gateway"), b"{}\n") == 503
    assert heard.reports == []


async def test_ten_thousand_services_are_one_report(site: Site) -> None:
    heard = Heard()
    report = {f"a-namespace-with-a-name/a-service-with-a-name-{number}": [1, 1, 1] for number in range(10_000)}
    async with site.replica(heard) as port:
        assert await post(port, await site.token("gateway"), json.dumps(report).encode() + b"\n") == 204
    assert len(heard.reports[0]) == 10_000


async def test_a_connection_that_breaks_is_no_gateway_that_ended_until_it_stays_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demand, "LOST_SECONDS", 1.0)
    heard, token = Heard(), await site.token("gateway")
    async with site.replica(heard) as port:
        await break_off(port, token, heard)
        kept = asyncio.create_task(post(port, token, slowly(heard)))
        await until(lambda: len(heard.reports) == 2, "it does not come again")
        assert heard.held() == {}, "what it held when the connection broke ended with its container"
        await asyncio.sleep(1.5)
        assert heard.lost == [], "it came again in time"
        assert await kept == 204
        assert heard.lost == [NAME]
        await break_off(port, token, heard)
        await until(lambda: len(heard.lost) == 2, "it is not given up")


async def break_off(port: int, token: str, heard: Heard) -> None:
    """A report, and then the end of the connection without the end of the request."""
    before = len(heard.reports)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /demand HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{NAME_HEADER}: {NAME}\r\n"
    line = b'{"team/chat": [1, 0, 1]}\n'
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(line), line))
    await until(lambda: len(heard.reports) == before + 1, "nothing was heard")
    assert heard.held() == {"chat": 1}
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    del reader


async def slowly(heard: Heard) -> AsyncIterator[bytes]:
    """A gateway that lives for two seconds more."""
    yield b"{}\n"
    await until(lambda: len(heard.reports) == 2, "nothing was heard")
    await asyncio.sleep(2)


async def test_a_connection_that_is_silent_is_dead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "SILENCE_SECONDS", 0.2)
    heard = Heard()
    async with site.replica(heard) as port:

        async def silent() -> AsyncIterator[bytes]:
            yield b"{}\n"
            await asyncio.sleep(10)

        assert await post(port, await site.token("gateway"), silent()) == 400


async def test_every_replica_hears_of_demand_at_once_and_of_the_end(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "LOOK_SECONDS", 0.1)
    (token := tmp_path / "token").write_text(await site.token("gateway") + "\n")
    first, second, held, reporter = Heard(), Heard(), Held(), Reporter()
    addresses = {"127.0.0.1"}

    async def resolve(_self: object, _host: str, port: int, **_: object) -> list[Any]:
        if not addresses:
            raise socket.gaierror("no name server answers")
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", resolve)
    async with site.replica(first) as port:
        teller = Teller(f"http://operator-demand:{port}/demand", token, NAME, reporter, held)
        running = asyncio.create_task(teller.run())
        await until(lambda: first.reports, "the first hears nothing")
        async with site.replica(second, "127.0.0.2", port):
            addresses.add("127.0.0.2")
            await until(lambda: second.reports, "one that comes later hears nothing")
            held.now = {"team/chat": (0, 1, 1)}
            reporter.wanted("team/chat", 0, 1)
            for heard in (first, second):
                await until(lambda heard=heard: {KEY: Load(0, 1, 1)} in heard.reports, "it hears nothing of demand")
            addresses.clear()
            await asyncio.sleep(0.5)
            assert not first.lost, "without a name server nothing has ended"
            assert not second.lost
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            for heard in (first, second):
                await until(lambda heard=heard: heard.lost == [NAME], "it does not hear of the end")


async def test_it_goes_on_when_a_replica_comes_again_or_refuses_for_a_while(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "REFUSED_SECONDS", 0.1)
    token, heard, held = tmp_path / "token", Heard(), Held()
    held.now = {"team/chat": (1, 0, 1)}
    token.write_text(await site.token("app"))
    async with site.replica(heard) as port:
        teller = Teller(f"http://127.0.0.1:{port}/demand", token, NAME, Reporter(), held)
        running = asyncio.create_task(teller.run())
        await until(
            lambda: any("is no gateway" in str(vars(each)) for each in caplog.records), "nobody says that it is refused"
        )
        token.write_text(await site.token("gateway"))
        await until(lambda: heard.reports, "the new token is not taken")
    again = Heard()
    async with site.replica(again, port=port):
        await until(lambda: again.reports, "it does not report to the replica that came again")
        assert again.reports[0] == {KEY: Load(1, 0, 0)}, "one that knows nothing is told all"
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
