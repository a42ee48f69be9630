"""report: one self-contained page and one picture of everything a QuantJob measured."""

import hashlib
import importlib.metadata
from importlib import resources
from typing import Any

from slm_contract.reasons import Reason
from slm_contract.results import ReportResult
from slm_contract.specs import ReportSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.progress import Reporter
from slm_pipelines.report.page import render
from slm_pipelines.report.picture import draw
from slm_pipelines.store import Store, StoredManifest

HTML_NAME = "report.html"
PNG_NAME = "report.png"
DRAWN_WITH = ("matplotlib", "jinja2")
"""Libraries whose version shows in the bytes."""


def check_selected(spec: ReportSpec) -> None:
    """Raise BadInput InvalidSpec when the chosen variant is not among the variants."""
    names = [row.type for row in spec.variants]
    if spec.selected and spec.selected not in names:
        message = f"selected is {spec.selected}, but variants holds {', '.join(names) or 'none'}: name one of them."
        raise BadInput(Reason.INVALID_SPEC, message)


def drawing_tool() -> str:
    """Identity of what draws: our code, template and style, and the libraries."""
    folder = resources.files("slm_pipelines.report")
    files = sorted((item for item in folder.iterdir() if item.is_file()), key=lambda item: item.name)
    own = hashlib.sha256(b"\0".join(item.read_bytes() for item in files)).hexdigest()[:16]
    return "; ".join([f"report {own}", *(f"{name} {importlib.metadata.version(name)}" for name in DRAWN_WITH)])


def build_recipe(spec: ReportSpec) -> dict[str, Any]:
    """Identity of the report: what it says and what draws it, wherever the store lies."""
    content = spec.model_dump_json(by_alias=True, exclude={"store"}).encode()
    return {"step": "report", "content": f"sha256:{hashlib.sha256(content).hexdigest()}", "tool": drawing_tool()}


def _make(store: Store, spec: ReportSpec, recipe: dict[str, Any]) -> str:
    png, charts = draw(spec)
    page = render(spec, charts).encode()
    blobs = (store.add_bytes(page, HTML_NAME), store.add_bytes(png, PNG_NAME))
    return store.add_manifest(StoredManifest("report", blobs, recipe))


def run(spec: ReportSpec, reporter: Reporter) -> ReportResult:
    """Draw, or find that the store has the report. Raises BadInput InvalidSpec."""
    check_selected(spec)
    store = Store(spec.store)
    recipe = build_recipe(spec)
    manifest = store.recall(recipe)
    if manifest is None:
        reporter.report(f"Drawing the report of {spec.title}")
        manifest = _make(store, spec, recipe)
        store.remember(recipe, manifest)
    digests = {blob.name: blob.digest for blob in store.manifest(manifest).blobs}
    return ReportResult(html=digests[HTML_NAME], png=digests[PNG_NAME], manifest=manifest)
