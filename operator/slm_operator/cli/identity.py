"""What an object is about, compared with defaults filled in: to name a default or to leave it out says the same."""

from typing import Any, Final

from slm_operator.api.registry import parse_resource
from slm_operator.errors import InvalidManifest
from slm_operator.ports import Manifest

IMMUTABLE: Final = {"SLMModel": "source", "QuantJob": "modelRef"}
"""The field of each kind that identifies its work."""


def identity_of(manifest: Manifest) -> Any:
    """The field that identifies the object's work, complete; None for a kind that may change its work."""
    field = IMMUTABLE.get(manifest["kind"])
    return complete_spec(manifest).get(field) if field else None


def complete_spec(manifest: Manifest) -> Manifest:
    """The spec with every default; as it is when an older version stored what is not valid any more."""
    bare = {name: part for name, part in manifest.items() if name != "status"}
    try:
        return parse_resource(bare).spec.model_dump(by_alias=True)
    except InvalidManifest:
        return dict(manifest["spec"])
