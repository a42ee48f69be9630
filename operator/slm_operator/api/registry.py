"""The three kinds in one table, and the parser that turns a manifest into a typed resource."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

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
        # As the API server does: no "2" becomes 2, and a field has no second spelling.
        return KINDS[kind].model_validate(manifest, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidManifest("; ".join(describe_error(item, KINDS[kind]) for item in error.errors())) from error


def describe_error(item: Any, model: type[BaseModel]) -> str:
    """One pydantic error as a sentence that starts with the field."""
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{place} is required"
    if item["type"] == "extra_forbidden":
        near = get_close_matches(str(item["loc"][-1]), known_fields(model, item["loc"][:-1]), 1)
        return f"{place} is no known field" + (f": did you mean {near[0]}?" if near else "")
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place and not message.startswith("spec") else message


def known_fields(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Names of the fields that an object at a place of the model may have; empty where it is no model."""
    for part in place:
        field = next((each for name, each in model.model_fields.items() if part in {name, each.alias}), None)
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        found = next((each for each in types if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if found is None:
            return []
        model = found
    return [each.alias or name for name, each in model.model_fields.items()]


def resolve_kind(name: str) -> str | None:
    """The kind that a kind, plural, singular or short name means, in any case; None when it is unknown."""
    wanted = name.lower()
    for kind, info in INFOS.items():
        if wanted in {kind.lower(), info.plural, *info.short_names}:
            return kind
    return None
