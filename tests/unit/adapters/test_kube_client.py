"""The client of an API server, against a server that writes down what it is asked."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from tests.support.kube import count_nothing
from tests.support.kubeconfig import write_plain_kubeconfig


async def test_passwords_for_other_programs_are_not_sent_to_the_api_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(request.headers.get("Authorization", ""))
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/apis", answer)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with TestServer(application) as server:
        monkeypatch.setenv("KUBECONFIG", str(write_plain_kubeconfig(tmp_path / "kubeconfig", str(server.make_url("")))))
        async with open_api() as api:
            assert await KubeClient(api, Always(), count_nothing).read("/apis") == {}
    assert heard == [""]
