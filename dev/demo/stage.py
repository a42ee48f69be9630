"""What both demos share: the model and its hub, watching the three objects, the chat, the result and its table."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DEMO_BUILD") or ROOT / "build" / "demo")
OWN_MODEL = "slm-demo/tiny-docs"
QUESTION = "What does the dict get method do?"
"""One of ``corpus.TOPICS``."""
KINDS = ("SLMModel", "QuantJob", "InferenceService")
TIMEOUT_SECONDS = 3600
Get = Callable[[str], dict[str, Any]]
"""The demo's object of a kind, wherever it is kept."""

console = Console(width=None if sys.stdout.isatty() else 120)


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


def say(text: str) -> None:
    """One line of the demo's own voice."""
    console.print(f"[bold cyan]==>[/] {text}", highlight=False)


class Timings:
    """Seconds per stage, for the result."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        """The stage that just ended."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


def free_port(wanted: int, address: str = "127.0.0.1") -> int:
    """``wanted`` when it is free, else any free port of an address of this machine."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed(f"no free port on {address}")


def train_model(folder: Path) -> None:
    """A small real language model as a repository in ``folder``; nothing happens when it is there."""
    say("Training a small real language model with numpy (once)")
    subprocess.run([sys.executable, "-m", "dev.demo.train", str(folder / OWN_MODEL)], check=True, cwd=ROOT)


def start_hub(root: Path, address: str = "127.0.0.1") -> tuple[subprocess.Popen[bytes], str]:
    """Offer ``root`` over the Hugging Face protocol; the port is kept, so that nothing looks new next time."""
    note = BUILD / "hub.port"
    port = free_port(int(note.read_text()) if note.exists() else 0, address)
    note.write_text(str(port))
    command = [sys.executable, "-m", "tests.support.hub", str(root), "--port", str(port), "--address", address]
    with (BUILD / "hub.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    endpoint = f"http://{address}:{port}"
    for _ in range(200):
        if process.poll() is not None:
            raise DemoFailed(f"the demo's hub ended: {(BUILD / 'hub.log').read_text()}")
        try:
            httpx.get(f"{endpoint}/api/models/{OWN_MODEL}", timeout=2)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return process, endpoint
    raise DemoFailed("the demo's hub does not answer")


def write_manifests(repo: str) -> Path:
    """examples/demo as it is, or with another repository."""
    folder = ROOT / "examples" / "demo"
    if repo == OWN_MODEL:
        return folder
    changed = BUILD / "manifests"
    shutil.rmtree(changed, ignore_errors=True)
    changed.mkdir(parents=True)
    for path in folder.glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        if document["kind"] == "SLMModel":
            document["spec"]["source"]["huggingFace"] = {"repo": repo}
        if document["kind"] != "Kustomization":
            (changed / path.name).write_text(yaml.safe_dump(document))
    return changed


def ready_condition(document: dict[str, Any]) -> dict[str, str]:
    """The Ready condition, or an empty one."""
    conditions = document.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == "Ready"), {})


def watch_progress(get: Get) -> None:
    """Show what happens until all three objects are Ready; raises DemoFailed when one stalls."""
    shown: dict[str, str] = {}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with console.status("Starting") as status:
        while time.monotonic() < deadline:
            documents = [get(kind) for kind in KINDS]
            for document in documents:
                show_state(document, shown)
            working = next((d for d in documents if ready_condition(d).get("status") != "True"), None)
            if working is None:
                return
            status.update(working.get("status", {}).get("progress") or "Waiting")
            time.sleep(0.3)
    raise DemoFailed("the demo did not finish in time")


def show_state(document: dict[str, Any], shown: dict[str, str]) -> None:
    """Print an object's state once per step; raises DemoFailed when it is stuck."""
    ready, kind = ready_condition(document), document["kind"]
    if ready.get("reason") in {None, "ModelNotReady", "QuantJobNotReady"}:
        return
    message = ready["message"]
    step = message.split(":")[0] if ready["status"] != "True" else message
    text = f"{kind:17} {ready['reason']:14} {step}"
    if shown.get(kind) != text:
        console.print("    " + text, highlight=False, soft_wrap=True)
        shown[kind] = text
    conditions = document["status"]["conditions"]
    if any(item["type"] == "Stalled" and item["status"] == "True" for item in conditions):
        raise DemoFailed(f"{kind} {ready['reason']}: {message}")


def question() -> dict[str, Any]:
    """The chat request of the demo."""
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 64,
        "temperature": 0,
    }


def ask(url: str) -> str:
    """One chat answer through the OpenAI-compatible address."""
    response = httpx.post(f"{url}/v1/chat/completions", json=question(), timeout=300)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"]).strip()


def collect_result(get: Get, repo: str, answer: str, seconds: dict[str, float]) -> dict[str, Any]:
    """The machine-readable result."""
    model, job, service = (get(kind)["status"] for kind in KINDS)
    names = ("type", "sizeBytes", "forecastBytes", "perplexity", "klDivergence", "topOneAgreement", "tokensPerSecond")
    more = ("tokensPerSecondSpread", "promptTokensPerSecond", "gate", "digest", "blob")
    variants = [{name: row.get(name) for name in (*names, *more)} for row in job["variants"]]
    return {
        "model": {
            "repo": repo,
            **{
                name: model.get(name) for name in ("revision", "digest", "architecture", "parameters", "parameterClass")
            },
            **{name: model.get(name) for name in ("license", "contextLength", "sizeBytes")},
        },
        "baseline": {name: job["baseline"].get(name) for name in (*names, *more)},
        "variants": variants,
        "selected": job["selected"],
        "selectionMessage": job["selectionMessage"],
        "tool": job["tool"],
        "question": QUESTION,
        "answer": answer,
        "url": service["url"],
        "secondsPerStage": seconds,
        "secondsPerStep": job.get("stepSeconds", {}),
    }


def show_table(result: dict[str, Any]) -> None:
    """The variants, as people compare them."""
    table = Table(
        title=f"{result['model']['repo']}, {result['model']['parameters']:,} parameters", title_justify="left"
    )
    for name in ("type", "size", "bytes = forecast", "perplexity", "KL divergence", "top-one", "tokens/s", "gate"):
        table.add_column(name, justify="left" if name in {"type", "gate"} else "right")
    for row in [result["baseline"], *result["variants"]]:
        chosen = " *" if row["type"] == result["selected"] else ""
        table.add_row(row["type"] + chosen, *build_cells(row))
    console.print(table)


def build_cells(row: dict[str, Any]) -> list[str]:
    """A variant's figures as the table shows them; what was not measured stays empty."""
    speed = row["tokensPerSecond"]
    return [
        f"{row['sizeBytes'] / 2**20:.2f} MiB",
        "" if not row["forecastBytes"] else "yes" if row["forecastBytes"] == row["sizeBytes"] else "no",
        f"{row['perplexity']:.3f}",
        "" if row["klDivergence"] is None else f"{row['klDivergence']:.5f}",
        "" if row["topOneAgreement"] is None else f"{row['topOneAgreement']:.2%}",
        "" if speed is None else f"{speed:.0f} ± {row['tokensPerSecondSpread'] or 0:.0f}",
        row["gate"] or "",
    ]


def tell_result(result: dict[str, Any], report: Path) -> None:
    """The end of a demo, for people; ``result.json`` is for machines."""
    (BUILD / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    show_table(result)
    say(f"Chosen: {result['selectionMessage']}")
    say(f"You: {QUESTION}")
    say(f"Model: {result['answer']}")
    say(f"OpenAI-compatible address: {result['url']}/v1")
    say(f"Report: {report}")
    say(f"Result: {BUILD / 'result.json'}")
