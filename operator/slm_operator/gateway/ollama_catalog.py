"""What is served, in the answers of ``/api/tags``, ``/api/ps``, ``/api/show``, ``/api/pull`` and ``/api/version``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slm_operator.gateway.ollama_answer import format_time
from slm_operator.gateway.ollama_errors import OllamaError, model_not_found
from slm_operator.gateway.ollama_request import find_model, served_name

API_VERSION = "0.12.0"
"""The version of Ollama whose API this is; clients ask for features by it."""


@dataclass(frozen=True)
class Served:
    """One name that can be called."""

    name: str
    modified_at: datetime
    digest: str = ""
    """sha256 of the file, without a prefix."""
    size_bytes: int = 0
    format: str = "gguf"
    family: str = ""
    """Architecture, as llama or qwen3."""
    parameters: int = 0
    quantization: str = ""
    license: str = ""
    context_size: int = 0
    """Tokens of one request."""
    capabilities: Sequence[str] = ("completion",)
    """Of completion, tools, insert, vision, embedding, thinking."""
    running: bool = False
    """An engine holds its weights."""
    memory_bytes: int = 0
    """Of one engine."""
    on_gpu: bool = False
    sleeps_at: datetime | None = None
    """When it may fall asleep if nobody asks; None: it stays."""


STAYS = "2318-01-01T00:00:00Z"
"""What Ollama says of a model that stays loaded is as far away: clients subtract it from now."""


def format_parameters(count: int) -> str:
    """As Ollama does (``format/format.go``, ``HumanNumber``): 1.2B, 134.52M."""
    for size, unit, decimals in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= size:
            return f"{count / size:.{decimals if count % size else 0}f}{unit}"
    return str(count) if count else ""


def find_served(model: str, served: Iterable[Served]) -> Served:
    """What a name means; raises OllamaError (404)."""
    name = served_name(model)
    found = next((each for each in served if each.name == name), None)
    if found is None:
        raise model_not_found(model)
    return found


def build_tags(served: Iterable[Served]) -> dict[str, Any]:
    """``/api/tags``: what can be called."""
    return {
        "models": [
            {**_build_entry(each), "modified_at": format_time(each.modified_at), "size": each.size_bytes}
            for each in served
        ]
    }


def build_processes(served: Iterable[Served]) -> dict[str, Any]:
    """``/api/ps``: what has an engine now."""
    return {
        "models": [
            {
                **_build_entry(each),
                "size": each.memory_bytes,
                "size_vram": each.memory_bytes if each.on_gpu else 0,
                "expires_at": format_time(each.sleeps_at) if each.sleeps_at else STAYS,
                "context_length": each.context_size,
            }
            for each in served
            if each.running
        ]
    }


def build_show(document: Mapping[str, Any], served: Iterable[Served]) -> dict[str, Any]:
    """``/api/show``; raises OllamaError."""
    each = find_served(find_model(document), served)
    facts: dict[str, Any] = {"general.architecture": each.family}
    if each.parameters:
        facts["general.parameter_count"] = each.parameters
    if each.context_size and each.family:
        facts[f"{each.family}.context_length"] = each.context_size
    return {
        "license": each.license,
        "modelfile": f"# {each.name} is served from a verified file and has no Modelfile.\n",
        "parameters": f"num_ctx {each.context_size}" if each.context_size else "",
        "template": "",
        "details": _build_details(each),
        "model_info": facts,
        "capabilities": list(each.capabilities),
        "modified_at": format_time(each.modified_at),
    }


def build_pull(document: Mapping[str, Any], served: Iterable[Served]) -> tuple[bytes, bool]:
    """(body, whether it is a stream) of ``/api/pull``: what is served is there, nothing else can be fetched here."""
    model = find_model(document)
    try:
        each = find_served(model, served)
    except OllamaError as error:
        message = f"pull model manifest: {model} is not served here: apply an SLMModel and an InferenceService for it"
        raise OllamaError(message, error.status) from error
    if document.get("stream") is False:
        return _line({"status": "success"}), False
    digest = f"sha256:{each.digest}"
    size = {"total": each.size_bytes, "completed": each.size_bytes}
    layer: dict[str, Any] = {"status": f"pulling {each.digest[:12]}", "digest": digest, **size}
    steps = [{"status": "pulling manifest"}, *([layer] if each.digest else []), {"status": "success"}]
    return b"".join(_line(step) for step in steps), True


def build_version() -> dict[str, str]:
    """``/api/version``."""
    return {"version": API_VERSION}


def _build_entry(each: Served) -> dict[str, Any]:
    return {"name": each.name, "model": each.name, "digest": each.digest, "details": _build_details(each)}


def _build_details(each: Served) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": each.format,
        "family": each.family,
        "families": [each.family] if each.family else None,
        "parameter_size": format_parameters(each.parameters),
        "quantization_level": each.quantization,
    }


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"
