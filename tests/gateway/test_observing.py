"""What operators see of requests: metrics and audit, from real ones."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from slm_operator.gateway.audit import verify
from slm_operator.gateway.audit_file import AuditFile
from slm_operator.gateway.listening import any_addresses, listen_for_metrics
from slm_operator.gateway.metrics import GatewayMetrics
from slm_operator.gateway.record import Record
from tests.support.gateway import CHAT, Door, chat, open_gateway, until
from tests.support.stub_engine import StubEngine

MODEL = {"gen_ai_request_model": "default/qwen"}
CHATTING = {**MODEL, "gen_ai_operation_name": "chat"}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


async def stream(door: Door) -> None:
    async with door.session.post(door.url + CHAT, json=chat(stream=True)) as answer:
        await answer.read()


async def test_metrics_count_what_happened_under_the_names_that_dashboards_know() -> None:
    engine = StubEngine(tokens=3, pause_seconds=0.02)
    async with open_gateway(engine) as door:
        metrics = GatewayMetrics(door.gateway.admissions.loads)
        await door.post(chat())
        await stream(door)
        await door.post(chat("no such model"))
        await until(lambda: len(door.records) == 3)
        for record in door.records:
            metrics.observe(record)
        server = await listen_for_metrics(metrics.render, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                found = samples(await answer.text())
            async with session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
                assert answer.status == 404
        server.close()

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("gen_ai_server_request_duration_seconds_count", **CHATTING) == 2
    assert value("gen_ai_server_time_to_first_token_seconds_count", **CHATTING) == 1
    assert 0.02 <= value("gen_ai_server_time_to_first_token_seconds_sum", **CHATTING) < 5
    assert 0.01 <= value("gen_ai_server_time_per_output_token_seconds_sum", **CHATTING) < 5
    assert value("slm_gateway_request_queue_time_seconds_count", **MODEL) == 2
    assert value("slm_gateway_generation_tokens_total", **MODEL) == 3 + 3, "counted, and estimated by events"
    assert value("slm_gateway_num_requests_running", **MODEL) == 0
    assert value("slm_gateway_num_requests_waiting", **MODEL) == 0
    ends = {"route": CHAT, "gen_ai_request_model": "default/qwen", "verdict": "ok", "code": "200"}
    assert value("slm_gateway_requests_total", **ends) == 2
    refused = {"route": CHAT, "gen_ai_request_model": "", "verdict": "model_not_found", "code": "404"}
    assert value("slm_gateway_requests_total", **refused) == 1


async def test_a_gateway_that_only_a_restart_helps_says_so_where_clients_cannot_come_between() -> None:
    troubles = ["", "The watch of Pods is stuck."]
    server = await listen_for_metrics(lambda: b"", "127.0.0.1", 0, lambda: troubles.pop(0))
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/healthz"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get(url) as answer:
            assert (answer.status, await answer.text()) == (503, "The watch of Pods is stuck.\n")
    server.close()


async def test_both_families_of_addresses_are_listened_on_where_the_machine_has_them() -> None:
    server = await listen_for_metrics(lambda: b"", any_addresses(), 0)
    ports = {each.family: each.getsockname()[1] for each in server.sockets}
    assert socket.AF_INET in ports
    async with aiohttp.ClientSession() as session:
        for family, port in ports.items():
            host = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
            async with session.get(f"http://{host}:{port}/metrics") as answer:
                assert answer.status == 200
    server.close()


async def test_what_clients_write_makes_no_new_metrics() -> None:
    async with open_gateway(StubEngine()) as door:
        metrics = GatewayMetrics(door.gateway.admissions.loads)
        for number in range(20):
            await door.post(chat(f"model-{number}"))
            await door.post(chat(), f"/v1/path-{number}")
            async with door.session.get(f"{door.url}/v1/models/model-{number}") as answer:
                assert answer.status == 404
        await until(lambda: len(door.records) == 60)
        for record in door.records:
            metrics.observe(record)
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("slm_gateway_requests_total")]
    assert len(lines) == 3


async def test_every_request_leaves_a_line_with_the_weights_that_answered_and_without_the_prompt(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, lambda: 1_800_000_000.0)
    async with open_gateway(StubEngine()) as door:
        await door.post(chat(text="a secret question"))
        await stream(door)
        await door.post(b"not JSON, and a secret")
        await until(lambda: len(door.records) == 3)
        for record in door.records:
            audit.observe(record)
    audit.close()
    text = path.read_bytes()
    assert verify(text.splitlines(keepends=True)).lines == 3
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["verdict"] for line in lines] == ["ok", "ok", "invalid_request"]
    assert lines[0]["digest"] == "sha256:" + "a" * 64
    assert (lines[0]["caller"], lines[0]["status"], lines[0]["completionTokens"]) == ("anonymous", 200, 3)
    assert b"secret" not in text


@pytest.fixture
def full_disk() -> Iterator[int]:
    with Path("/dev/full").open("wb") as full:
        yield full.fileno()


async def test_nothing_but_health_is_answered_while_the_audit_cannot_be_written(tmp_path: Path, full_disk: int) -> None:
    audit = AuditFile(tmp_path / "audit.jsonl", lambda: 0.0)
    audit._descriptor = full_disk
    audit.observe(Record("id", "unknown", 1.0))
    async with open_gateway(StubEngine(), check=audit.check) as door:
        for path, status in (("/v1/models", 503), ("/v1/models/qwen", 503), ("/api/tags", 503), ("/healthz", 200)):
            async with door.session.get(door.url + path) as answer:
                assert answer.status == status
        assert (await door.post(chat()))[0] == 503


async def test_an_observer_that_fails_keeps_none_from_being_told() -> None:
    usage = b'{"usage": {"prompt_tokens": 1' + b"0" * 400 + b', "completion_tokens": 1}}'
    async with open_gateway(StubEngine(answer=usage)) as door:
        metrics = GatewayMetrics(door.gateway.admissions.loads)
        door.gateway.observe_with(metrics.observe, door.records.append)
        assert (await door.post(chat()))[0] == 200
        await until(lambda: bool(door.records))
