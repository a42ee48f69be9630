"""Asks the API server who a token belongs to, and what its holder may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.api.meta import GROUP

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
SERVICE_ACCOUNT = "system:serviceaccount:"
"""How the names of service accounts begin."""
USE = "use"
"""The verb on an InferenceService that lets somebody ask it."""


@dataclass(frozen=True)
class User:
    """Whom the API server knows by a token."""

    name: str
    told: Mapping[str, Any]
    """All that it said, for reviews of access."""


async def review_token(client: KubeClient, token: str, audience: str) -> User | None:
    """Whose token it is; None where it is nobody's, has expired, or was made for another audience.

    Raises ClusterUnavailable, and Refused where the gateway may not ask.
    """
    spec = {"token": token, "audiences": [audience]}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
    status = (await client.write("POST", TOKEN_REVIEWS, review))["status"]
    # A server that knows nothing of audiences answers without them (TokenReview's own documentation).
    if not status.get("authenticated") or audience not in status.get("audiences", []):
        return None
    user = status["user"]
    return User(user["username"], user)


async def review_access(client: KubeClient, user: User, namespace: str, name: str) -> bool:
    """Whether RBAC, or whatever authorizes on the cluster, lets the user ask an InferenceService."""
    resource = {"group": GROUP, "resource": "inferenceservices", "verb": USE, "namespace": namespace, "name": name}
    spec = {
        "user": user.name,
        "uid": user.told.get("uid", ""),
        "groups": user.told.get("groups", []),
        "extra": user.told.get("extra", {}),
        "resourceAttributes": resource,
    }
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    status = (await client.write("POST", ACCESS_REVIEWS, review))["status"]
    return bool(status.get("allowed")) and not status.get("denied")
