"""Whether a service answers with what is wanted, from what its Deployment, Service and Pods report."""

from collections.abc import Sequence

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.core.conditions import Verdict, find_condition, parse_time
from slm_operator.core.diff import first_difference
from slm_operator.core.plan import Manifest
from slm_operator.core.pods import describe_waiting

HEALTHY_SECONDS = 60.0
"""An engine that ran this long before it ended was not crashing at its start: it is simply started again."""
CRASHES_UNTIL_STALLED = 3
"""Restarts after which a service that never answered is called stalled rather than starting."""

EXIT_CODES = {
    132: "it uses instructions that this processor lacks",
    134: "it gave up by itself",
    137: "it was killed, mostly for want of memory",
    139: "it used memory that is not its own",
}
"""What ended a process, by 128 plus the signal's number."""
MAX_LAST_WORDS = 500
"""Characters of the log of an engine that crashed; the last line stands whatever its length."""

TELLING = ("image", "command", "resources")
"""What tells the engines of one template from those of another; the rest of a pod is filled in by the cluster."""


def judge_engines(
    service: InferenceService,
    deployment: Manifest | None,
    address: Manifest | None,
    pods: Sequence[Manifest],
    wanted: Manifest,
    url: str,
) -> Verdict:
    """The verdict on engines of which ``wanted`` is the Deployment, and ``url`` the address if it is known."""
    replicas = wanted["spec"]["replicas"]
    problem = _address_problem(address)
    if problem:
        return Verdict("stalled", Reason.PORT_IN_USE, problem)
    ready, crash = count(deployment, "readyReplicas"), _crash(pods, wanted)
    answering = ready > 0 and bool(url)
    if answering and _is_rolled_out(deployment, pods, wanted):
        detail = f" {crash}." if crash else ""
        return Verdict("ready", Reason.READY, f"{ready} of {replicas} engines answer at {url}/v1.{detail}")
    if crash:
        detail = f". The engines from before still answer at {url}/v1." if answering else ""
        return Verdict("stalled", Reason.ENGINE_CRASHED, crash + detail)
    detail = f" The engines from before answer at {url}/v1 until then." if answering else ""
    waiting = _waiting(deployment, pods, wanted)
    if waiting:
        return Verdict("progressing", Reason.POD_WAITING, f"An engine cannot start: {waiting}.{detail}")
    if answering:
        return Verdict("progressing", Reason.ROLLING_OUT, f"{_change(service, deployment, wanted)}{detail}")
    return Verdict("progressing", Reason.STARTING, f"Engines are starting: {ready} of {replicas} answer.")


def _change(service: InferenceService, deployment: Manifest | None, wanted: Manifest) -> str:
    """Why engines are replaced: the first difference, and what was said of it once it is applied."""
    if deployment is not None and (change := describe_change(wanted, deployment)):
        return f"New engines are starting, because {change}."
    before = find_condition(service.status.conditions, "Ready")
    if before is not None and before.reason == Reason.ROLLING_OUT and before.message.startswith("New engines"):
        return before.message.partition(" The engines from before")[0]
    return "New engines are starting."


def describe_change(wanted: Manifest, there: Manifest) -> str:
    """The first difference of two Deployments' templates; empty where there is none."""
    template = first_difference(wanted["spec"]["template"], there["spec"]["template"])
    return "" if template is None else str(template).removeprefix("metadata.annotations.").removeprefix("spec.")


def is_overdue(deployment: Manifest | None) -> bool:
    """Whether its engines have not got ready within the time that they have."""
    conditions = (deployment or {}).get("status", {}).get("conditions", [])
    return any(
        each.get("reason") == "ProgressDeadlineExceeded" and each.get("status") == "False" for each in conditions
    )


def _is_rolled_out(deployment: Manifest | None, pods: Sequence[Manifest], wanted: Manifest) -> bool:
    """Whether every engine that exists was started from the template that is wanted now; their number may change."""
    there = (deployment or {}).get("spec", {}).get("template")
    if deployment is None or first_difference(wanted["spec"]["template"], there) is not None:
        return False
    if is_settled(deployment):
        return True
    # Its numbers are of before the last apply. The engines themselves tell a new number from a new template.
    return bool(pods) and all(_is_current(pod, wanted) for pod in pods)


def is_settled(deployment: Manifest) -> bool:
    """Whether a Deployment's engines are all of the template that it has."""
    seen = count(deployment, "observedGeneration") >= deployment["metadata"].get("generation", 1)
    return seen and count(deployment, "updatedReplicas") == count(deployment, "replicas")


def count(deployment: Manifest | None, name: str) -> int:
    """A number of a Deployment's status; 0 while it is not told."""
    return int((deployment or {}).get("status", {}).get(name) or 0)


def _waiting(deployment: Manifest | None, pods: Sequence[Manifest], wanted: Manifest) -> str:
    """Why an engine of the ``wanted`` template cannot start, or nothing."""
    for condition in (deployment or {}).get("status", {}).get("conditions", []):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"its pod is refused: {condition.get('message', '').rstrip('.')}"
    told = (describe_waiting(pod) for pod in pods if _is_current(pod, wanted))
    return next((text for text in told if text), "")


def _is_current(pod: Manifest, wanted: Manifest) -> bool:
    """Whether the pod is of the ``wanted`` template, and not of one that is about to go."""
    asked, there = (spec["containers"][0] for spec in (wanted["spec"]["template"]["spec"], pod["spec"]))
    return first_difference({name: asked[name] for name in TELLING}, there) is None


def _address_problem(address: Manifest | None) -> str:
    for condition in (address or {}).get("status", {}).get("conditions", []):
        if condition.get("type") == Reason.PORT_IN_USE and condition.get("status") == "True":
            return str(condition.get("message", ""))
    return ""


def _crash(pods: Sequence[Manifest], wanted: Manifest) -> str:
    """How an engine of the ``wanted`` template ends again and again, or nothing."""
    for pod in (each for each in pods if _is_current(each, wanted)):
        for status in pod.get("status", {}).get("containerStatuses", []):
            last = status.get("lastState", {}).get("terminated", {})
            often = status.get("restartCount", 0) >= CRASHES_UNTIL_STALLED
            if often and not status.get("ready") and _lasted_seconds(last) < HEALTHY_SECONDS:
                count, code = status["restartCount"], last.get("exitCode", "unknown")
                meaning = f" ({EXIT_CODES[code]})" if code in EXIT_CODES else ""
                words = _last_words(str(last.get("message", "")))
                return f"The engine ended {count} times, last with exit code {code}{meaning}: {words}"
    return ""


def _last_words(log: str) -> str:
    """The end of a log, in whole lines of which none stands twice; a tail of a log begins anywhere in a line."""
    told = dict.fromkeys(line.strip().rstrip(".") for line in reversed(log.splitlines()) if line.strip())
    kept: list[str] = []
    for line in told:
        if kept and sum(map(len, kept)) + len(line) > MAX_LAST_WORDS:
            break
        kept.insert(0, line)
    return "; ".join(kept) or "it left no message"


def _lasted_seconds(ended: Manifest) -> float:
    begin, end = (parse_time(ended.get(name, "")) for name in ("startedAt", "finishedAt"))
    return (end - begin).total_seconds() if begin and end else 0.0
