"""Fill README.md's table and picture from a finished demo: ``python -m dev.readme``.

``--check`` needs no demo: it says whether the table has the columns that this script writes, a row per variant of
examples/demo, and its picture. Figures differ between machines, so they are not compared.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from dev.demo.stage import build_cells
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.ports import ObjectKey

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "report.png"
QUANT_JOB = ROOT / "examples" / "demo" / "quantjob.yaml"
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
BLOCK = re.compile(f"{BEGIN}\n.*{END}", re.DOTALL)
TITLE = "org.opencontainers.image.title"
HEADER = "| type | size | forecast exact | perplexity | KL divergence | same top token | tokens/s | gate |"
RULE = "|---|---:|---|---:|---:|---:|---:|---|"


def build_row(row: dict[str, Any], selected: str) -> str:
    """One line of the table; what was not measured stays empty."""
    name = f"**{row['type']}**" if row["type"] == selected else row["type"]
    return f"| {' | '.join([name, *build_cells(row)])} |"


def build_block(result: dict[str, Any]) -> str:
    """Everything between the two markers, from a demo's result.json."""
    model = result["model"]
    rows = [build_row(row, result["selected"]) for row in (result["baseline"], *result["variants"])]
    intro = (
        f"`make demo` on {os.cpu_count()} CPU cores: {model['parameters']:,} parameters, {result['tool']}.\n"
        f"{result['selectionMessage']}"
    )
    return "\n".join([BEGIN, "", intro, "", HEADER, RULE, *rows, "", END])


def find_picture(build: Path) -> Path:
    """The report's picture in the demo's store, by way of the QuantJob's report manifest."""
    cluster = SqliteCluster(build / "state" / "objects.db")
    job = asyncio.run(cluster.get(ObjectKey("QuantJob", "default", "demo")))
    cluster.close()
    if job is None:
        sys.exit(f"{build} holds no QuantJob demo: run make demo first.")
    blobs = build / "data" / "store" / "blobs" / "sha256"
    layers = json.loads((blobs / job["status"]["reportDigest"].removeprefix("sha256:")).read_text())["layers"]
    titles = {layer["annotations"][TITLE]: layer["digest"] for layer in layers}
    return blobs / str(titles["report.png"]).removeprefix("sha256:")


def find_faults(text: str) -> list[str]:
    """What README.md's block lacks, in words."""
    found = BLOCK.search(text)
    if found is None:
        return [f"README.md has no {BEGIN} … {END}"]
    table = [line for line in found[0].splitlines() if line.startswith("|")]
    if table[:2] != [HEADER, RULE]:
        return ["README.md's table has other columns than dev/readme.py writes"]
    rows = [line.split("|")[1].strip(" *") for line in table[2:]]
    wanted = ["baseline", *yaml.safe_load(QUANT_JOB.read_text())["spec"]["variants"]]
    faults = [] if rows == wanted else [f"README.md's table has the rows {rows}, not {wanted}"]
    return faults if PICTURE.is_file() else [*faults, "docs/images/report.png is missing"]


def main() -> int:
    """Fill in or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when the table is stale")
    arguments = parser.parse_args()
    text = README.read_text()
    if arguments.check:
        faults = find_faults(text)
        sys.stderr.writelines(f"{fault}: run make demo, then python -m dev.readme\n" for fault in faults)
        return 1 if faults else 0
    build = Path(os.environ.get("DEMO_BUILD") or ROOT / "build" / "demo")
    README.write_text(BLOCK.sub(lambda _: build_block(json.loads((build / "result.json").read_text())), text))
    shutil.copyfile(find_picture(build), PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
