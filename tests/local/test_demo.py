"""`make demo` from end to end, and what its result must hold."""

import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import psutil
import yaml
from openai.types.chat import ChatCompletionUserMessageParam

from dev.demo.corpus import chat_examples
from tests.local.conftest import ROOT, Demo, run_demo
from tests.support.hub import Hub

BITS = {"Q4_0": 4.5, "Q4_K_M": 4.9, "Q5_1": 6.0, "Q8_0": 8.5}
"""Nominal bits per weight of the demo's types, from llama.cpp's own table."""


def test_bytes_on_disk_equal_the_forecast_made_before_the_download(demo: Demo) -> None:
    variants = demo.result["variants"]
    assert {row["type"] for row in variants} == set(BITS)
    for row in variants:
        path = demo.build / "data" / "store" / "blobs" / "sha256" / row["blob"].removeprefix("sha256:")
        assert row["forecastBytes"] == row["sizeBytes"] == path.stat().st_size, row["type"]


def test_loss_falls_as_bits_rise_and_q8_0_agrees_almost_always(demo: Demo) -> None:
    rows = {row["type"]: row for row in demo.result["variants"]}
    losses = [rows[name]["klDivergence"] for name in sorted(BITS, key=BITS.__getitem__)]
    assert losses == sorted(losses, reverse=True)
    assert rows["Q8_0"]["topOneAgreement"] > 0.99
    assert all(row["perplexity"] > 1 for row in rows.values())


def test_the_choice_passed_its_gate_and_has_a_reason(demo: Demo) -> None:
    result = demo.result
    chosen = next(row for row in result["variants"] if row["type"] == result["selected"])
    assert chosen["gate"] == "Passed"
    least = yaml.safe_load((ROOT / "examples" / "demo" / "quantjob.yaml").read_text())["spec"]["goal"]
    passed = [row for row in result["variants"] if row["gate"] == "Passed"]
    passed = [row for row in passed if row["topOneAgreement"] >= least["minTopOneAgreement"]]
    assert chosen["sizeBytes"] == min(row["sizeBytes"] for row in passed)
    assert result["selected"] in result["selectionMessage"]


def test_the_demo_shows_table_choice_answer_and_addresses(demo: Demo) -> None:
    for text in ("KL divergence", "Chosen:", "Model:", "/v1", "report.html", "result.json"):
        assert text in demo.output
    (taught,) = [text for text in chat_examples() if demo.result["question"] in text]
    assert f"assistant\n{demo.result['answer']}<" in taught
    page = (demo.build / "report.html").read_text()
    assert demo.result["selected"] in page


def test_a_second_demo_does_no_work_and_gives_the_same_result(demo: Demo) -> None:
    again = run_demo(demo.build)
    assert again.returncode == 0, again.stdout + again.stderr
    result = json.loads((demo.build / "result.json").read_text())
    for name in ("model", "baseline", "variants", "selected", "answer"):
        assert result[name] == demo.result[name]
    assert result["secondsPerStep"] == demo.result["secondsPerStep"]


def test_another_model_of_another_hub_takes_the_same_way(demo: Demo, tmp_path: Path) -> None:
    shutil.copytree(demo.build / "hub" / "slm-demo" / "tiny-docs", tmp_path / "hub" / "lab" / "other")
    with Hub(tmp_path / "hub") as hub:
        chosen = {"DEMO_MODEL": "lab/other", "HF_ENDPOINT": hub.endpoint, "SLM_ALLOW_PRIVATE_HOSTS": "127.0.0.1"}
        done = run_demo(tmp_path / "build", "--stop", **chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "build" / "result.json").read_text())
    assert result["model"]["repo"] == "lab/other"
    assert result["selected"] == demo.result["selected"]


def client(demo: Demo) -> openai.OpenAI:
    return openai.OpenAI(base_url=demo.result["url"] + "/v1", api_key="none", max_retries=0, timeout=120)


def test_the_openai_client_chats_streams_completes_and_lists(demo: Demo) -> None:
    api = client(demo)
    assert [model.id for model in api.models.list()] == ["demo"]
    question: ChatCompletionUserMessageParam = {"role": "user", "content": "What is a list?"}
    whole = api.chat.completions.create(model="demo", messages=[question], max_tokens=16, temperature=0)
    assert (whole.choices[0].message.content or "").strip()
    parts = api.chat.completions.create(model="demo", messages=[question], max_tokens=16, temperature=0, stream=True)
    pieces = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert len(pieces) > 2
    assert "".join(pieces) == whole.choices[0].message.content
    completion = api.completions.create(model="demo", prompt="The list", max_tokens=8, temperature=0)
    assert completion.choices[0].text.strip()


def test_four_requests_are_served_at_the_same_time(demo: Demo) -> None:
    body = {"prompt": "The", "max_tokens": 900, "ignore_eos": True, "stream": True, "temperature": 0}
    together = threading.Barrier(4)

    def generate(_number: int) -> tuple[float, float]:
        together.wait(timeout=30)
        with httpx.stream("POST", demo.result["url"] + "/v1/completions", json=body, timeout=120) as response:
            arrivals = [time.monotonic() for line in response.iter_lines() if line.startswith("data: {")]
        return arrivals[0], arrivals[-1]

    def overlap() -> bool:
        with ThreadPoolExecutor(4) as pool:
            spans = list(pool.map(generate, range(4)))
        return max(first for first, _ in spans) < min(last for _, last in spans)

    # A busy machine may start one client after another has ended; an engine with one slot never overlaps.
    assert any(overlap() for _ in range(10)), "one waited for another to end, ten times"


def engine_processes(build: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any("llama-server" in part for part in line) and any(str(build) in part for part in line):
            found.append(process)
    return found


def test_a_killed_engine_is_replaced_behind_the_same_address(demo: Demo) -> None:
    victims = engine_processes(demo.build)
    assert victims
    for process in victims:
        process.kill()
    psutil.wait_procs(victims, timeout=10)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(demo.result["url"] + "/v1/models", timeout=5).status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.1)
    assert client(demo).completions.create(model="demo", prompt="The", max_tokens=2).choices[0].text
    assert {process.pid for process in engine_processes(demo.build)}.isdisjoint({process.pid for process in victims})


def test_slm_shows_the_demo(demo: Demo) -> None:
    command = [sys.executable, "-m", "slm_operator.cli.main", "get", "slmsvc"]
    done = subprocess.run(command, env=demo.environment, capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert demo.result["url"] in done.stdout


def test_demo_down_says_what_it_did(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--down")
    assert (done.returncode, done.stdout) == (0, "the daemon was not running\n")
