"""From what a user calls a model to manifests with derived names."""

import re
from dataclasses import dataclass
from pathlib import Path

from slm_operator.api.meta import API_VERSION, MAX_NAME_LENGTH
from slm_operator.cli.exits import USAGE, CommandFailed
from slm_operator.ports import Manifest

DEFAULT_REVISION = "main"
REPO = re.compile(r"(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<revision>.+))?")
MADE_BY = "slm.dev/made-by"
"""Annotation of objects that ``slm run`` made, and may therefore change; an apply of a manifest takes it away."""
UNQUANTIZED = "none"
"""What --variant says to serve a model as it is."""
ROOM_FOR_VARIANT = 12
"""Characters of a name kept free for ``-q4-k-m`` and the like."""


@dataclass(frozen=True)
class ModelRequest:
    """A source and names for it, the preferred one first."""

    source: Manifest
    names: tuple[str, ...]


def parse_model(text: str) -> ModelRequest:
    """``owner/name[@revision]`` or a path; a path begins with / . or ~ or exists here."""
    looks_like_path = text.startswith(("/", ".", "~"))
    path = Path(text).expanduser()
    if looks_like_path or path.exists():
        if not path.exists():
            raise CommandFailed(f"There is no file or folder {path}.", USAGE)
        path = path.resolve()
        name = path.stem if path.is_file() else path.name
        return ModelRequest({"path": str(path)}, (derive_name(name), derive_name(f"{path.parent.name}-{name}")))
    match = REPO.fullmatch(text)
    if match is None:
        message = f"MODEL is owner/name[@revision], a path, or the name of an SLMModel that exists; {text!r} is none."
        raise CommandFailed(message, USAGE)
    revision = match["revision"] or DEFAULT_REVISION
    source: Manifest = {"repo": match["repo"]}
    tail = ""
    if revision != DEFAULT_REVISION:
        source["revision"] = revision
        tail = f"-{revision}"
    owner, name = match["repo"].split("/")
    return ModelRequest({"huggingFace": source}, (derive_name(name, tail), derive_name(f"{owner}-{name}", tail)))


def derive_name(text: str, tail: str = "") -> str:
    """A valid object name: lower case, ``-`` for what is not allowed, short enough for a variant's suffix."""
    clean = re.sub(r"[^a-z0-9.]+", "-", (text + tail[:13]).lower())
    clean = re.sub(r"\.(?=\.|-|$)|(?<=-)\.", "", clean)
    return clean[: MAX_NAME_LENGTH - ROOM_FOR_VARIANT].strip("-.") or "model"


def build_model(name: str, namespace: str, source: Manifest) -> Manifest:
    """An SLMModel."""
    return _build("SLMModel", name, namespace, {"source": source})


def build_quant_job(name: str, namespace: str, model: str, variant: str) -> Manifest:
    """A QuantJob that makes one variant."""
    return _build("QuantJob", name, namespace, {"modelRef": {"name": model}, "variants": [variant]})


def build_service(name: str, namespace: str, reference: Manifest) -> Manifest:
    """An InferenceService with the defaults of its kind."""
    return _build("InferenceService", name, namespace, reference)


def _build(kind: str, name: str, namespace: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "annotations": {MADE_BY: "slm-run"}},
        "spec": spec,
    }
