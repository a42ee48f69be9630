"""What can be waited for: a condition of an object or its end, and when waiting cannot help."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slm_operator.cli.exits import USAGE, CommandFailed
from slm_operator.cli.session import condition_of, display_name
from slm_operator.ports import Manifest, ObjectKey

CONDITIONS: Mapping[str, Sequence[str]] = {
    "SLMModel": ("Ready", "Reconciling", "Stalled"),
    "QuantJob": ("Ready", "Succeeded", "Reconciling", "Stalled"),
    "InferenceService": ("Ready", "Reconciling", "Stalled"),
    "Pod": ("Ready",),
    "Job": ("Complete", "Failed", "Suspended"),
    "Deployment": ("Available", "Progressing"),
    "Service": ("PortInUse",),
}
"""The conditions that objects of a kind can have."""


@dataclass(frozen=True)
class Goal:
    """What is waited for; an empty condition means that the object is gone."""

    condition: str
    status: str

    def __str__(self) -> str:
        return f"condition {self.condition}={self.status}" if self.condition else "deletion"


def parse_goal(text: str) -> Goal:
    """``delete`` or ``condition=NAME[=STATUS]``."""
    if text == "delete":
        return Goal("", "")
    match = re.fullmatch(r"condition=(\w+)(?:=(true|false|unknown))?", text, re.IGNORECASE)
    if match is None:
        raise CommandFailed(f"--for takes delete or condition=NAME[=STATUS], not {text!r}.", USAGE)
    return Goal(match[1], (match[2] or "True").capitalize())


def check_condition(goal: Goal, key: ObjectKey) -> None:
    """Raise CommandFailed USAGE for a condition that objects of the kind never have: it would not come in any time."""
    names = CONDITIONS[key.kind]
    if goal.condition and goal.condition.lower() not in map(str.lower, names):
        raise CommandFailed(
            f"{display_name(key)} has no condition {goal.condition!r}; its conditions are {', '.join(names)}.", USAGE
        )


def is_reached(manifest: Manifest | None, goal: Goal) -> bool:
    """Whether the goal holds, for the current spec and not an older one."""
    if manifest is None or not goal.condition:
        return manifest is None and not goal.condition
    found = condition_of(manifest, goal.condition)
    generation = manifest["metadata"].get("generation", 0)
    return found.get("status") == goal.status and found.get("observedGeneration", generation) >= generation


def is_stalled(manifest: Manifest) -> bool:
    """Whether somebody must act before anything more happens, by the current spec and not an older one."""
    stalled = condition_of(manifest, "Stalled")
    current = stalled.get("observedGeneration", 0) >= manifest["metadata"].get("generation", 0)
    return stalled.get("status") == "True" and current


def describe_stall(key: ObjectKey, manifest: Manifest) -> str:
    """Why the object is stalled, and what to change."""
    ready = condition_of(manifest, "Ready")
    cause = ready if ready.get("message") else condition_of(manifest, "Stalled")
    return f"{display_name(key)}: {cause['reason']}: {cause.get('message', '')}"


def describe_state(manifest: Manifest | None, goal: Goal) -> str:
    """Why the goal is not reached, in words."""
    if manifest is None:
        return "it does not exist"
    found = condition_of(manifest, goal.condition or "Ready")
    if not found:
        return "nothing has looked at it yet"
    return f"{found['type']} is {found['status']} ({found['reason']}): {found.get('message', '')}".rstrip(": ")
