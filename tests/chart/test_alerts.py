"""The alert rules, as Prometheus' own promtool reads them and plays them against series."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.apt import NotInstalled, unpack
from dev.rendering import NAMESPACE, RELEASE, render

NS = f'namespace="{NAMESPACE}"'
CHAT = 'gen_ai_request_model="team/chat"'
LEADS = f'slm_operator_leading{{{NS}, pod="a"}}'
STANDS_BY = f'slm_operator_leading{{{NS}, pod="b"}}'
FAILURES = f'slm_gateway_part_failures_total{{{NS}, pod="{RELEASE}-gateway-1"}}'
GATEWAY = f'process_start_time_seconds{{{NS}, pod="{RELEASE}-gateway-1"}}'
QUIET = {LEADS: "1x60", STANDS_BY: "0x60", GATEWAY: "1x60"}
"""A minute per value: all is well."""


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    """The rules of a release with default names."""
    documents = render({"metrics": {"alerts": {"enabled": True}}})
    (rule,) = [each for each in documents if each["kind"] == "PrometheusRule"]
    spec: dict[str, Any] = rule["spec"]
    return spec


@pytest.fixture(scope="module")
def promtool() -> str:
    try:
        return str(unpack("promtool", "prometheus", "Alert rules are checked by promtool"))
    except NotInstalled as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


def play(promtool: str, folder: Path, rules: Mapping[str, Any], *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
    command = [promtool, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def firing(promtool: str, folder: Path, rules: Mapping[str, Any], series: Mapping[str, str], minute: int) -> set[str]:
    """Alerts that fire then. promtool only compares, so each is asked for alone."""
    found = set()
    for alert in names(rules):
        test = {
            "rule_files": ["rules.yaml"],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}],
                }
            ],
        }
        (folder / "test.json").write_text(json.dumps(test))
        done = play(promtool, folder, rules, "test", "rules", "test.json")
        if done.returncode:
            assert f"alertname: {alert}" in done.stdout + done.stderr, done.stdout + done.stderr
            found.add(alert)
    return found


def names(rules: Mapping[str, Any]) -> list[str]:
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"]]


def requests(verdict: str, code: int, values: str) -> dict[str, str]:
    labels = f'{NS}, {CHAT}, pod="{RELEASE}-gateway-1", route="/v1/chat/completions"'
    return {f'slm_gateway_requests_total{{{labels}, verdict="{verdict}", code="{code}"}}': values}


def held(running: str, waiting: str) -> dict[str, str]:
    return {
        f"slm_gateway_num_requests_running{{{NS}, {CHAT}}}": running,
        f"slm_gateway_num_requests_waiting{{{NS}, {CHAT}}}": waiting,
    }


def looks(result: str, values: str) -> dict[str, str]:
    labels = f'{NS}, kind="QuantJob", result="{result}", reason="Ready"'
    return {f"slm_operator_reconciles_total{{{labels}}}": values}


def services(reason: str, ready: str = "False") -> dict[str, str]:
    labels = f'{NS}, kind="InferenceService", ready="{ready}", reason="{reason}"'
    return {f"slm_operator_objects{{{labels}}}": "2x60"}


CASES: list[tuple[str, Mapping[str, str], int, set[str]]] = [
    ("all is well", {**requests("ok", 200, "0+60x60"), **held("1x60", "0x60"), **looks("ok", "0+60x60")}, 50, set()),
    ("nobody leads", {LEADS: "1x10 0x50"}, 13, {"SlmOperatorNoLeader"}),
    ("a failover", {LEADS: "1x10 0x50", STANDS_BY: "0x11 1x49"}, 13, set()),
    ("two lead", {STANDS_BY: "1x60"}, 5, {"SlmOperatorSeveralLeaders"}),
    ("two releases", {LEADS.replace("}", ', job="other"}'): "1x60"}, 50, set()),
    ("a fifth of looks fails", {**looks("ok", "0+48x60"), **looks("Refused", "0+12x60")}, 30, {"SlmOperatorWorkFails"}),
    ("few looks fail", {**looks("ok", "0+58x60"), **looks("Refused", "0+2x60")}, 30, set()),
    ("looks end with leadership", {**looks("ok", "0+1x60"), **looks("NotLeading", "0+12x60")}, 30, set()),
    ("a service does not serve", services("VariantNotAvailable"), 35, {"SlmServiceNotReady"}),
    ("a service starts", services("Starting"), 20, set()),
    ("a service is stopped", services("Stopped"), 50, set()),
    ("a service sleeps", services("ScaledToZero", "True"), 50, set()),
    ("no gateway", {GATEWAY: "1x10 _x50"}, 30, {"SlmGatewayAbsent"}),
    (
        "a tenth of requests fails",
        {**requests("ok", 200, "0+54x60"), **requests("engine_failed", 502, "0+6x60")},
        15,
        {"SlmGatewayErrors"},
    ),
    (
        "clients at fault",
        {**requests("ok", 200, "0+1x60"), **requests("model_not_found", 404, "0+60x60")},
        15,
        set(),
    ),
    ("the first answer broke off", requests("truncated", 200, "_x10 1x50"), 12, {"SlmGatewayTruncatedAnswers"}),
    ("one more answer broke off", requests("truncated", 200, "1x30 2x30"), 32, {"SlmGatewayTruncatedAnswers"}),
    ("an answer broke off long ago", requests("truncated", 200, "_x10 1x50"), 30, set()),
    ("a part fails", {FAILURES: "0x10 1x2 2x2 3x2 4x43"}, 20, {"SlmGatewayPartFails"}),
    ("a part failed once", {FAILURES: "0x10 1x50"}, 20, set()),
    ("nothing wakes", held("0x60", "3x60"), 10, {"SlmGatewayNothingWakes"}),
    ("nothing wakes for a single request", held("0x60", "0x5 1x5 0x50"), 9, {"SlmGatewayNothingWakes"}),
    ("it is busy", held("4x60", "3x60"), 10, set()),
    ("it wakes", held("0x60", "0x5 3x2 0x53"), 9, set()),
    ("too many", requests("queue_full", 429, "0+6x60"), 15, {"SlmGatewayFull"}),
]


@pytest.mark.parametrize(
    ("series", "minute", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_an_alert_fires_when_its_time_has_come_and_else_none(
    promtool: str, rules: dict[str, Any], tmp_path: Path, series: Mapping[str, str], minute: int, expected: set[str]
) -> None:
    assert firing(promtool, tmp_path, rules, {**QUIET, **series}, minute) == expected


def test_promtool_finds_no_fault_and_each_alert_has_a_case(
    promtool: str, rules: dict[str, Any], tmp_path: Path
) -> None:
    done = play(promtool, tmp_path, rules, "check", "rules", "--lint-fatal", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    fired: Sequence[set[str]] = [case[3] for case in CASES]
    assert set(names(rules)) == set().union(*fired)
    assert len(names(rules)) == len(set(names(rules)))


def test_without_a_gateway_there_are_no_alerts_on_one() -> None:
    documents = render({"metrics": {"alerts": {"enabled": True}}, "gateway": {"enabled": False}})
    (rule,) = [each for each in documents if each["kind"] == "PrometheusRule"]
    assert [group["name"] for group in rule["spec"]["groups"]] == ["slm-operator"]
