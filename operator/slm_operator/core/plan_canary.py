"""plan_canary: whether a change of the engines is tried first, how far it is, and when it is taken or given up.

The Deployment of the service keeps its template until the new one has passed. What is being tried is in
``status.canary``, with the identity of its template: any other that is wanted meanwhile begins anew.
"""

import math
from collections.abc import Sequence

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import Canary, CanaryStatus
from slm_operator.core.answers import Answers
from slm_operator.core.canary import describe, judge
from slm_operator.core.canary_quality import check_quality
from slm_operator.core.canary_scene import ANSWERING, CanaryScene, Rollout
from slm_operator.core.conditions import Verdict, parse_time
from slm_operator.core.diff import first_difference
from slm_operator.core.engines import describe_change, is_overdue, judge_engines
from slm_operator.core.manifests.canary import build_canary, canary_key, keep_template, name_template, read_weights
from slm_operator.core.plan import EventRecord, Manifest, ObjectKey
from slm_operator.core.pods import is_ready

NEWS = 1.2
"""Growth of the number of answers that is worth a status of its own."""
TICK_SECONDS = 5.0
"""How soon to look again at the answers of a step; that a request failed is told at once."""


def plan_canary(scene: CanaryScene) -> Rollout:
    """What to do about a change, if there is one."""
    rollout, before = scene.service.spec.rollout, scene.service.status.canary
    bounds, there = rollout.canary if rollout else None, scene.deployment
    if bounds is None or there is None:
        return _replace(scene)
    changed = first_difference(scene.wanted["spec"]["template"], there["spec"]["template"]) is not None
    template = name_template(scene.service, scene.wanted)
    if before is None or before.template != template:
        plan = _Plan(scene, bounds, there, CanaryStatus(state="Running", template=template))
        if changed and plan.may_begin():
            return plan.begin()
        return plan.hold(before) if changed and before is not None else _replace(scene)
    plan = _Plan(scene, bounds, there, before)
    if before.state == "Promoting" or not changed:
        return plan.finish()
    return plan.stay() if before.state == "RolledBack" else plan.go_on()


def _replace(scene: CanaryScene) -> Rollout:
    """Roll as without a canary."""
    return Rollout([scene.wanted], _remove(scene))


def _remove(scene: CanaryScene) -> tuple[ObjectKey, ...]:
    return () if scene.canary is None else (canary_key(scene.service),)


def _begin(text: str) -> str:
    """The text as a sentence begins."""
    return f"{text[:1].upper()}{text[1:]}"


class _Plan:
    """One template that is tried; ``status`` is what is known of it."""

    def __init__(self, scene: CanaryScene, bounds: Canary, there: Manifest, status: CanaryStatus) -> None:
        self._scene, self._bounds = scene, bounds
        self._kept = keep_template(scene.wanted, there)
        weights = read_weights(scene.wanted["spec"]["template"])
        self._served, self._weights = read_weights(there["spec"]["template"]), weights
        self._status = status.model_copy(update={"variant": weights.variant, "digest": weights.blob})
        self._replicas: int = scene.wanted["spec"]["replicas"]
        self._about = ObjectKey("InferenceService", scene.service.metadata.namespace, scene.service.metadata.name)

    def may_begin(self) -> bool:
        """Whether there are engines to compare with; without any, the change breaks nobody's answers."""
        reason = self._judge_engines(self._kept).reason
        waiting = reason == Reason.POD_WAITING and any(map(is_ready, self._scene.pods))
        return self._replicas > 0 and (waiting or reason in ANSWERING)

    def hold(self, before: CanaryStatus) -> Rollout:
        """Another change at zero, after one that was being tried or given up: it waits for what to compare with."""
        if self._replicas or before.state == "Promoting":
            return _replace(self._scene)
        return Rollout([self._kept], _remove(self._scene), before.model_copy(update={"percent": 0}))

    def begin(self) -> Rollout:
        """Start its engines, unless it is known already to be worse."""
        problem = check_quality(self._bounds, self._scene.quant_job, self._served, self._weights)
        return self._roll_back(problem) if problem else self._start()

    def go_on(self) -> Rollout:
        """Judge it, as far as its engines answer."""
        scene, percent = self._scene, self._status.percent
        if self._replicas == 0 or (scene.canary is None and not self.may_begin()):
            # Nothing to compare with: it begins anew with the other engines.
            return Rollout([self._kept], _remove(scene), self._update(percent=0))
        health = self._judge_engines(self._build(percent), scene.canary, scene.view.pods)
        if health.reason == Reason.ENGINE_CRASHED:
            return self._roll_back(f"{health.message.partition('. The engines from before')[0].rstrip('.')}.")
        if health.reason != Reason.READY and is_overdue(scene.canary):
            return self._roll_back(f"Its engines did not get ready in time: {health.message}")
        if percent == 0:
            return self._start(health)
        return self._judge(health)

    def stay(self) -> Rollout:
        """It was given up: engines stay as they are."""
        return Rollout([self._kept], _remove(self._scene), self._status, self._rolled_back(self._status.message))

    def finish(self) -> Rollout:
        """It was taken: replace all engines, and let its own answer until then."""
        scene = self._scene
        reason = self._judge_engines(scene.wanted).reason
        if self._replicas == 0 or reason == Reason.READY:
            return _replace(scene)
        promoting = self._update(state="Promoting")
        # Its engines make room where the others' successors find none: those from before answer until then.
        if scene.canary is None or reason == Reason.POD_WAITING or is_overdue(scene.deployment):
            return Rollout([scene.wanted], _remove(scene), promoting)
        return Rollout([scene.wanted, self._build(self._status.percent)], (), promoting)

    def _start(self, health: Verdict | None = None) -> Rollout:
        """Wait for its engines; the first step begins when they answer."""
        if health is not None and health.reason == Reason.READY:
            return self._step(self._bounds.steps[0], "Its engines answer.")
        url, change = self._scene.url, describe_change(self._scene.wanted, self._kept)
        message = f"A canary of {self._name()} starts, because {change}. All requests go to the engines from before."
        verdict = Verdict("progressing", Reason.CANARY_RUNNING, f"{message} They answer at {url}/v1.")
        if health is not None and health.reason == Reason.POD_WAITING:
            verdict = health
        return self._keep(self._update(percent=0), verdict)

    def _judge(self, health: Verdict) -> Rollout:
        status = self._status
        answers = self._scene.view.answers or Answers("")
        figures = {"requests": answers.canary.requests, "errors": answers.canary.errors}
        judgement = judge(self._bounds, status.percent, self._elapsed_seconds(status), answers)
        if judgement.action == "roll back":
            return self._roll_back(f"At {status.percent} %, {judgement.why}", **figures)
        if judgement.action == "wait" or health.reason != Reason.READY:
            why = judgement.why if judgement.action == "wait" else describe(answers)
            # Gateways report each second, and each write of a status is read by all of them.
            known = figures["errors"] == status.errors and figures["requests"] < NEWS * (status.requests + 1)
            if known and status.message and status.requests:
                return self._keep(status, self._running(status.percent, status.message))
            return self._keep(self._update(**figures, message=why), self._running(status.percent, why))
        if judgement.action == "advance":
            return self._step(judgement.percent, f"At {status.percent} %, {judgement.why}")
        message = f"{_begin(self._name())} takes over. At {status.percent} %, {judgement.why}"
        event = EventRecord(self._about, "Normal", Reason.CANARY_PROMOTED, message)
        promoted = self._update(**figures, state="Promoting", message=message)
        return Rollout([self._scene.wanted, self._build(status.percent)], (), promoted, None, (event,))

    def _step(self, percent: int, why: str) -> Rollout:
        since = self._scene.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        status = self._update(percent=percent, since=since, requests=0, errors=0, message=why)
        verdict = self._running(percent, why)
        event = EventRecord(self._about, "Normal", Reason.CANARY_RUNNING, verdict.message)
        return self._keep(status, verdict, event)

    def _keep(self, status: CanaryStatus, verdict: Verdict, *events: EventRecord) -> Rollout:
        """Both run beside each other."""
        due = self._bounds.step_seconds - self._elapsed_seconds(status)
        look_again = min(TICK_SECONDS, due) if due > 0 else TICK_SECONDS
        return Rollout([self._kept, self._build(status.percent)], (), status, verdict, events, look_again)

    def _roll_back(self, message: str, **figures: int) -> Rollout:
        status = self._update(**figures, state="RolledBack", percent=0, message=message)
        return Rollout([self._kept], _remove(self._scene), status, self._rolled_back(message))

    def _rolled_back(self, message: str) -> Verdict:
        rest = f"The engines from before answer at {self._scene.url}/v1. Change the spec to try something else."
        return Verdict(
            "stalled", Reason.CANARY_ROLLED_BACK, f"{_begin(self._name())} was rolled back. {message} {rest}"
        )

    def _running(self, percent: int, why: str) -> Verdict:
        number = sum(each <= percent for each in self._bounds.steps)
        step = f"Step {number} of {len(self._bounds.steps)}: {percent} % of the requests go to {self._name()}"
        return Verdict("progressing", Reason.CANARY_RUNNING, f"{step}. {_begin(why)}")

    def _name(self) -> str:
        """What sentences call it."""
        return self._weights.variant if self._weights != self._served else "the new spec"

    def _build(self, percent: int) -> Manifest:
        """Its Deployment, with the engines that so many percent of the requests need."""
        scene = self._scene
        return build_canary(scene.service, scene.wanted, max(1, math.ceil(self._replicas * percent / 100)))

    def _elapsed_seconds(self, status: CanaryStatus) -> float:
        since = parse_time(status.since)
        return (self._scene.now - since).total_seconds() if since else 0.0

    def _update(self, **fields: object) -> CanaryStatus:
        return self._status.model_copy(update=fields)

    def _judge_engines(
        self, wanted: Manifest, there: Manifest | None = None, pods: Sequence[Manifest] | None = None
    ) -> Verdict:
        """What is said of the service's own engines, or of those that are given."""
        scene = self._scene
        deployment, pods = (scene.deployment, scene.pods) if pods is None else (there, pods)
        return judge_engines(scene.service, deployment, scene.address, pods, wanted, scene.url)
