"""Metadata that every child carries: one place for labels, owner and name."""

import hashlib
import json
from typing import Any, Final, Protocol

from slm_operator.api.meta import API_VERSION, GROUP, ObjectMeta
from slm_operator.core.plan import Manifest

LABEL_KIND = f"{GROUP}/kind"
LABEL_NAME = f"{GROUP}/name"
LABEL_STEP = f"{GROUP}/step"
SERVE: Final = "serve"
"""Step label of engines, which are pods of ours and yet no step."""
CANARY: Final = "canary"
"""Step label of engines that are tried: neither the service's address nor its Deployment selects them."""
ENGINE_STEPS = (SERVE, CANARY)
FINALIZER = f"{GROUP}/store"
"""On a cluster, on objects that may have bytes in the store: they are removed before the object goes."""
ANNOTATION_RETRY = f"{GROUP}/retry"
"""Give this annotation another value to run a failed step again."""
MAX_CHILD_NAME = 63


class Owner(Protocol):
    """What owns children: a resource of ours, or the claim of a namespace's store."""

    @property
    def api_version(self) -> str:
        """Group and version."""
        ...

    @property
    def kind(self) -> str:
        """Kind."""
        ...

    @property
    def metadata(self) -> ObjectMeta:
        """Name, namespace, uid and annotations."""
        ...


def build_labels(owner: Owner) -> dict[str, str]:
    """Labels by which the children of an owner are found."""
    return {
        "app.kubernetes.io/managed-by": "slm-operator",
        LABEL_KIND: owner.kind,
        LABEL_NAME: owner.metadata.name,
    }


def build_metadata(owner: Owner, name: str, extra_labels: dict[str, str] | None = None) -> Manifest:
    """Name, namespace, labels and the controlling owner."""
    return {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": {**build_labels(owner), **(extra_labels or {})},
        "ownerReferences": [
            {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.metadata.name,
                "uid": owner.metadata.uid,
                "controller": True,
                # Of a claim we may not change the finalizers, which some clusters ask for here.
                **({"blockOwnerDeletion": True} if owner.api_version == API_VERSION else {}),
            }
        ],
    }


def short_digest(value: Any) -> str:
    """Eight hexadecimal digits that change when the value does."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def controller_reference(manifest: Manifest) -> Manifest:
    """The owner reference of the object's controller; empty where it has none."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def controller_of(manifest: Manifest) -> str:
    """Uid of the owner that controls the object, or an empty string."""
    return str(controller_reference(manifest).get("uid", ""))


def describe_controller(manifest: Manifest) -> str:
    """Who controls the object, in words."""
    owner = controller_reference(manifest)
    return f"{owner['kind']} {owner['name']}" if owner else "nobody, so somebody made it by hand"


def is_predecessors(owner: Owner, manifest: Manifest) -> bool:
    """Whether the manifest belongs to an earlier object of the owner's name, and so is about to go."""
    theirs = controller_reference(manifest)
    same = (theirs.get("kind"), theirs.get("name")) == (owner.kind, owner.metadata.name)
    return same and theirs["uid"] != owner.metadata.uid


def is_controlled_by(manifest: Manifest, owner: Owner) -> bool:
    """Whether the owner is the manifest's controller."""
    return controller_of(manifest) == owner.metadata.uid
