"""Status of local pods, in the form a kubelet writes it, and reading it back. No I/O."""

from datetime import UTC, datetime
from typing import Any

from slm_operator.ports import Manifest

FINAL_PHASES = ("Succeeded", "Failed")
LOCAL_ADDRESS = "127.0.0.1"


def stamp(moment: datetime | None = None) -> str:
    """ISO 8601 in UTC with milliseconds, as short jobs need them."""
    moment = moment or datetime.now(UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_stamp(text: str) -> datetime:
    """The inverse of ``stamp``; also reads whole seconds."""
    return datetime.fromisoformat(text)


def container_of(pod: Manifest) -> dict[str, Any]:
    """The pod's only container."""
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


def is_final(pod: Manifest) -> bool:
    """Whether the pod will never run again."""
    return pod.get("status", {}).get("phase") in FINAL_PHASES


def port_of(pod: Manifest) -> int:
    """Local port the pod listens on, 0 for none."""
    return int(pod.get("status", {}).get("port", 0))


def terminated(code: int, message: str, started_at: str, reason: str = "") -> dict[str, Any]:
    """A ``terminated`` container state that ends now."""
    reason = reason or ("Completed" if code == 0 else "Error")
    return {"exitCode": code, "reason": reason, "message": message, "startedAt": started_at, "finishedAt": stamp()}


def termination_of(pod: Manifest) -> dict[str, Any] | None:
    """The ``terminated`` state of a pod that ended."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    found: dict[str, Any] | None = statuses[0]["state"].get("terminated") if statuses else None
    return found


def build_pod_status(
    previous: Manifest, name: str, state: dict[str, Any], *, ready: bool, restarts: int, phase: str
) -> Manifest:
    """The status of a pod whose container is in ``state`` (one of waiting, running, terminated)."""
    old = (previous.get("containerStatuses") or [{}])[0]
    last = old.get("lastState", {})
    if "terminated" in old.get("state", {}) and "terminated" not in state:
        last = {"terminated": old["state"]["terminated"]}
    container = {"name": name, "ready": ready, "started": "running" in state, "restartCount": restarts}
    return {
        **previous,
        "phase": phase,
        "hostIP": LOCAL_ADDRESS,
        "podIP": LOCAL_ADDRESS,
        "startTime": previous.get("startTime") or stamp(),
        "conditions": [condition(previous, "Ready", met=ready, reason="" if ready else "ContainersNotReady")],
        "containerStatuses": [{**container, "state": state, "lastState": last}],
    }


def condition(previous: Manifest, kind: str, *, met: bool, reason: str, message: str = "") -> dict[str, Any]:
    """A condition whose transition time changes only with its status."""
    status = "True" if met else "False"
    conditions: list[dict[str, Any]] = previous.get("conditions", [])
    old = next((each for each in conditions if each["type"] == kind), {})
    moved = old["lastTransitionTime"] if old.get("status") == status else stamp()
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moved}
