"""Metadata that every child carries: one place for labels, owner and name."""

import hashlib
import json
from typing import Any

from slm_operator.api.meta import API_VERSION, GROUP
from slm_operator.api.registry import AnyResource
from slm_operator.core.plan import Manifest

LABEL_KIND = f"{GROUP}/kind"
LABEL_NAME = f"{GROUP}/name"
LABEL_STEP = f"{GROUP}/step"
ANNOTATION_RETRY = f"{GROUP}/retry"
"""Give this annotation another value to run a failed step again."""
MAX_CHILD_NAME = 63


def build_labels(owner: AnyResource) -> dict[str, str]:
    """Labels by which the children of an owner are found."""
    return {
        "app.kubernetes.io/managed-by": "slm-operator",
        LABEL_KIND: owner.kind,
        LABEL_NAME: owner.metadata.name,
    }


def build_metadata(owner: AnyResource, name: str, extra_labels: dict[str, str] | None = None) -> Manifest:
    """Name, namespace, labels and the controlling owner."""
    return {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": {**build_labels(owner), **(extra_labels or {})},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": owner.kind,
                "name": owner.metadata.name,
                "uid": owner.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def short_digest(value: Any) -> str:
    """Eight hexadecimal digits that change when the value does."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _controller(manifest: Manifest) -> Manifest | None:
    owners = manifest["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), None)


def controller_of(manifest: Manifest) -> str:
    """Uid of the owner that controls the object, or an empty string."""
    owner = _controller(manifest)
    return str(owner["uid"]) if owner else ""


def describe_controller(manifest: Manifest) -> str:
    """Who controls the object, in words."""
    owner = _controller(manifest)
    return f"{owner['kind']} {owner['name']}" if owner else "nobody, so somebody made it by hand"


def is_controlled_by(manifest: Manifest, owner: AnyResource) -> bool:
    """Whether the owner is the manifest's controller."""
    return controller_of(manifest) == owner.metadata.uid
