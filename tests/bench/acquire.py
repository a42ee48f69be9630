"""Fetching and verifying a model: our acquire step beside huggingface_hub and sha256, from one loopback hub."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slm_contract.specs import AcquireSpec, ResolveSpec
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import resolve
from tests.bench.harness import Figures, Goal, Report, run_process, take_turns
from tests.support.models import write_model

REPO = "bench/model"
PEER_NAME = "huggingface_hub and sha256"
PEER = """
import hashlib, pathlib, sys
from huggingface_hub import snapshot_download
repo, endpoint, folder = sys.argv[1:]
for path in pathlib.Path(snapshot_download(repo, endpoint=endpoint, cache_dir=folder)).iterdir():
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
"""
"""huggingface_hub checks sizes only, so the sha256 of every file is added: the same work."""


def run(folder: Path, layers: int = 16) -> Report:
    """A bf16 Llama of 32 MB per layer and 125 MB of embeddings."""
    shape: dict[str, Any] = {"hidden": 1024, "heads": 16, "kv_heads": 8, "intermediate": 3072, "vocab": 32_000}
    model = write_model(folder / "hub" / REPO, "llama", layers=layers, **shape)
    size = sum(path.stat().st_size for path in model.iterdir())
    command = [sys.executable, "-m", "tests.support.hub", str(folder / "hub")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        try:
            endpoint = hub.stdout.readline().split()[0] if hub.stdout else ""
            figures = take_turns(_subjects(folder, endpoint), 3)
        finally:
            hub.terminate()
    ours, theirs = figures["slm acquire"], figures[PEER_NAME]
    ratios = {name: round(ours[name] / theirs[name], 3) for name in ("wallSeconds", "cpuSeconds", "peakMemoryMiB")}
    report = Report("acquire", f"fetch and verify {size / 2**20:.0f} MiB from a hub on loopback", figures, ratios)
    report.goals = {"wallSeconds": Goal("max", 1.5), "peakMemoryMiB": Goal("max", 1.0)}
    report.notes = ["ratios: ours over the peer's"]
    return report


def _subjects(folder: Path, endpoint: str) -> dict[str, Callable[[], Figures]]:
    source = {"huggingFace": {"repo": REPO, "endpoint": endpoint}}
    found = resolve.run(
        ResolveSpec.model_validate({"source": source, "allowPrivateHosts": ["127.0.0.1"]}), Reporter("resolve")
    )
    spec = AcquireSpec.model_validate(
        {
            "source": source, "revision": found.revision, "files": [file.model_dump() for file in found.files],
            "allowPrivateHosts": ["127.0.0.1"], "store": str(folder / "store"),
        }
    ).model_dump_json(by_alias=True)  # fmt: skip
    steps = [sys.executable, "-m", "slm_pipelines", "acquire", "--spec-env", "SLM_SPEC"]
    peer = [sys.executable, "-c", PEER, REPO, endpoint, str(folder / "cache")]

    def ours() -> Figures:
        shutil.rmtree(folder / "store", ignore_errors=True)
        return run_process(steps, {"SLM_SPEC": spec})

    def theirs() -> Figures:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return run_process(peer, {"HF_HUB_DISABLE_PROGRESS_BARS": "1"})

    return {"slm acquire": ours, PEER_NAME: theirs}
