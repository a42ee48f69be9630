"""The three kinds in one table, and the parser that turns a manifest into a typed resource."""

from typing import Any

from pydantic import ValidationError

from slm_operator.api import inferenceservice, quantjob, slmmodel
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.meta import ResourceInfo
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.slmmodel import SLMModel
from slm_operator.errors import InvalidManifest

AnyResource = SLMModel | QuantJob | InferenceService

KINDS: dict[str, type[SLMModel] | type[QuantJob] | type[InferenceService]] = {
    "SLMModel": SLMModel,
    "QuantJob": QuantJob,
    "InferenceService": InferenceService,
}
INFOS: dict[str, ResourceInfo] = {info.kind: info for info in (slmmodel.INFO, quantjob.INFO, inferenceservice.INFO)}


def parse_resource(manifest: dict[str, Any]) -> AnyResource:
    """The typed resource; raises InvalidManifest with one line per broken rule."""
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidManifest(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    try:
        return KINDS[kind].model_validate(manifest, strict=True)  # The API server converts no "2" to 2 either.
    except ValidationError as error:
        raise InvalidManifest("; ".join(describe_error(item) for item in error.errors())) from error


def describe_error(item: Any) -> str:
    """One pydantic error as a sentence that starts with the field."""
    place = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place and not message.startswith("spec") else message


def resolve_kind(name: str) -> str | None:
    """The kind that a kind, plural, singular or short name means, in any case; None when it is unknown."""
    wanted = name.lower()
    for kind, info in INFOS.items():
        if wanted in {kind.lower(), info.plural, *info.short_names}:
            return kind
    return None
