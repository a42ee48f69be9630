"""Converting to GGUF: our convert step beside the floor, which is reading, writing and hashing the same bytes."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slm_contract.specs import ConvertSpec
from slm_pipelines.store import Store
from tests.bench.harness import Figures, Goal, Report, run_process, take_turns
from tests.support.models import write_model
from tests.support.stored import store_folder


def run(folder: Path, layers: int = 16) -> Report:
    """A bf16 Llama of 32 MB per layer and 125 MB of embeddings."""
    shape: dict[str, Any] = {"hidden": 1024, "heads": 16, "kv_heads": 8, "intermediate": 3072, "vocab": 32_000}
    model = write_model(folder / "model", "llama", layers=layers, **shape)
    weights = model / "model.safetensors"
    digest = store_folder(Store(folder / "store"), model)
    spec = ConvertSpec(model=digest, store=str(folder / "store")).model_dump_json(by_alias=True)
    figures = take_turns(_subjects(folder, weights, spec), 3)
    ours, floor = figures["slm convert"], figures["cp, sync and sha256sum"]
    for row in (ours, floor):
        row["gigabytesPerSecond"] = round(weights.stat().st_size / 1e9 / row["wallSeconds"], 3)
    ratios = {
        "wallSeconds": round(ours["wallSeconds"] / floor["wallSeconds"], 3),
        "peakMemoryPerWeights": round(ours["peakMemoryMiB"] / (weights.stat().st_size / 2**20), 3),
    }
    report = Report("convert", f"{weights.stat().st_size / 2**20:.0f} MiB of safetensors to GGUF", figures, ratios)
    report.goals = {"wallSeconds": Goal("max", 4.0), "peakMemoryPerWeights": Goal("max", 0.5)}
    report.notes = ["llama.cpp's own converter needs torch and is not timed here; the floor only moves the bytes"]
    return report


def _subjects(folder: Path, weights: Path, spec: str) -> dict[str, Callable[[], Figures]]:
    step = [sys.executable, "-m", "slm_pipelines", "convert", "--spec-env", "SLM_SPEC"]
    script = 'cp "$0" "$1" && sync "$1" && sha256sum "$1"'

    def ours() -> Figures:
        shutil.rmtree(folder / "store" / "recipes")
        (folder / "store" / "recipes").mkdir()
        return run_process(step, {"SLM_SPEC": spec})

    def floor() -> Figures:
        return run_process(["sh", "-c", script, str(weights), str(folder / "copy")])

    return {"slm convert": ours, "cp, sync and sha256sum": floor}
