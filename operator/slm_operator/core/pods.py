"""What a pod's status says: whether it lives, takes requests, and why it does not start."""

from slm_operator.core.plan import Manifest

NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
"""A kubelet goes to and fro between the first two with other words each time, so its words are left out."""
NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError"})
"""Such as a Secret that does not exist."""


def find_unschedulable(pod: Manifest) -> Manifest | None:
    """The scheduler's word that it found no node for it."""
    conditions = pod.get("status", {}).get("conditions", [])
    said = (each for each in conditions if each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable")
    return next(said, None)


def describe_waiting(pod: Manifest) -> str:
    """Why the pod cannot start, in words; empty while nothing is known to be wrong."""
    if (said := find_unschedulable(pod)) is not None:
        return f"no node takes it: {said.get('message', '').rstrip('.')}"
    for container in pod.get("status", {}).get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in NO_IMAGE:
            return f"its image {container.get('image', '')} cannot be had"
        if waiting.get("reason") in NO_CONTAINER:
            return f"its container cannot be made: {waiting.get('message', '').rstrip('.')}"
    return ""


def is_ready(pod: Manifest) -> bool:
    """Whether the pod takes requests."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def is_live(pod: Manifest) -> bool:
    """Whether something of the pod may still run."""
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
