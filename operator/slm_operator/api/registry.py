"""The three kinds in one table, and the parser that turns a manifest into a typed resource."""

import copy
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from slm_operator.api import inferenceservice, quantjob, slmmodel
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.meta import ResourceInfo
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.sentences import describe_error
from slm_operator.api.slmmodel import SLMModel
from slm_operator.errors import InvalidManifest

AnyResource = SLMModel | QuantJob | InferenceService

KINDS: dict[str, type[SLMModel] | type[QuantJob] | type[InferenceService]] = {
    "SLMModel": SLMModel,
    "QuantJob": QuantJob,
    "InferenceService": InferenceService,
}
INFOS: dict[str, ResourceInfo] = {info.kind: info for info in (slmmodel.INFO, quantjob.INFO, inferenceservice.INFO)}

UNKNOWN = "extra_forbidden"
"""What pydantic calls a field that is none of the model's."""


def parse_resource(manifest: dict[str, Any]) -> AnyResource:
    """The typed resource; raises InvalidManifest with one line per broken rule."""
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = get_close_matches(str(kind), KINDS, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise InvalidManifest(f"kind must be one of {', '.join(KINDS)}, not {kind!r}{hint}")
    try:
        return _validate(manifest, kind)
    except ValidationError as error:
        if newer := [item["loc"] for item in error.errors() if item["loc"][0] == "status" and item["type"] == UNKNOWN]:
            # Written by a newer version of this operator, before it was rolled back.
            return parse_resource(_without(manifest, newer))
        raise InvalidManifest("; ".join(describe_error(item, KINDS[kind]) for item in error.errors())) from error


def _validate(manifest: dict[str, Any], kind: str) -> AnyResource:
    """As the API server does: no "2" becomes 2, and a field has no second spelling."""
    return KINDS[kind].model_validate(manifest, strict=True, by_alias=True, by_name=False)


def _without(manifest: dict[str, Any], places: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    """A copy that lacks what is at these places."""
    changed = copy.deepcopy(manifest)
    for *path, name in places:
        part: Any = changed
        for step in path:
            part = part[step]
        part.pop(name)
    return changed


def resolve_kind(name: str) -> str | None:
    """The kind that a kind, plural, singular or short name means, in any case; None when it is unknown."""
    wanted = name.lower()
    for kind, info in INFOS.items():
        if wanted in {kind.lower(), info.plural, *info.short_names}:
            return kind
    return None
