"""Carries out plans: one object at a time, nothing but what the plan says."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import KINDS, AnyResource, parse_resource
from slm_operator.core.answers import name_step
from slm_operator.core.conditions import Verdict, build_events, read_conditions, restate
from slm_operator.core.diff import check_owner, is_applied
from slm_operator.core.engines import count
from slm_operator.core.manifests.metadata import FINALIZER, controller_reference
from slm_operator.core.placement import Placement
from slm_operator.core.plan import EventRecord, Plan, key_of
from slm_operator.core.plan_deletion import plan_deletion
from slm_operator.core.plan_inferenceservice import plan_inferenceservice
from slm_operator.core.plan_quantjob import plan_quantjob
from slm_operator.core.plan_slmmodel import plan_slmmodel
from slm_operator.core.plan_store import plan_store
from slm_operator.core.service_snapshot import ServiceSnapshot
from slm_operator.core.store import CLAIM_KIND
from slm_operator.errors import Conflict, InvalidManifest, NamespaceEnding, NameTaken, Refused
from slm_operator.ports import Clock, Cluster, Manifest, ObjectKey, Observer, Unobserved
from slm_operator.reconcile import gather
from slm_operator.reconcile.autoscaler import Autoscaler

log = logging.getLogger(__name__)


class Reconciler:
    """Brings objects of our kinds to where their specs want them."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        placement: Placement,
        observer: Observer | None = None,
        autoscaler: Autoscaler | None = None,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._placement = placement
        self._observer = observer or Unobserved()
        self._autoscaler = autoscaler or Autoscaler()

    def store_key(self, namespace: str) -> ObjectKey | None:
        """What to look at for the store of a namespace; None on the local backend."""
        pods = self._placement.pods
        return ObjectKey(CLAIM_KIND, namespace, pods.claim) if pods else None

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one object and act; returns the seconds after which to look again, if any."""
        if key.kind == CLAIM_KIND:
            return await self._furnish(key)
        manifest = await self._cluster.get(key)
        if key.kind not in KINDS or manifest is None:
            self._observer.gone(key)
            self._autoscaler.forget(key)
            return None
        if manifest["metadata"].get("deletionTimestamp"):
            return await self._let_go(key, manifest)
        try:
            resource = parse_resource(manifest)
        except InvalidManifest as error:
            await self._refuse(key, manifest, Verdict("stalled", error.reason, str(error)))
            return None
        try:
            return await self._execute(key, await self._plan(resource), manifest)
        except InvalidManifest as error:
            message = f"An object that this one refers to cannot be used: {error}"
            await self._refuse(key, manifest, Verdict("progressing", error.reason, message))
            return None
        except NameTaken as error:
            await self._refuse(key, manifest, Verdict("stalled", Reason.NAME_CONFLICT, str(error)))
            raise
        except Refused as error:
            await self._refuse(key, manifest, Verdict("stalled", Reason.REFUSED, str(error)))
            raise

    async def _furnish(self, key: ObjectKey) -> float | None:
        """Give a namespace its store; the key is that of the claim, whether there is one or not."""
        pods = self._placement.pods
        if pods is None or key != self.store_key(key.namespace):
            return None
        snapshot = await gather.gather_namespace(self._cluster, key.namespace, self._placement, pods)
        try:
            return await self._execute(key, plan_store(snapshot, pods), snapshot.store.claim)
        except NamespaceEnding:
            return None
        except Refused as error:
            # The objects that wait say what they wait for; why it does not come is said of the claim.
            await self._cluster.record(EventRecord(key, "Warning", Reason.REFUSED, str(error)))
            raise

    async def _let_go(self, key: ObjectKey, manifest: Manifest) -> float | None:
        """Clean up for an object that was deleted and held by us; the rest is the cluster's own garbage collection."""
        pods = self._placement.pods
        if pods is None or FINALIZER not in (manifest["metadata"].get("finalizers") or []):
            return None
        snapshot = await gather.gather_deletion(self._cluster, manifest, self._placement, pods.claim)
        try:
            return await self._execute(key, plan_deletion(snapshot, self._clock.now()), manifest)
        except NamespaceEnding:
            # The claim goes too, and with it every byte.
            return await self._execute(key, Plan(hold=False), manifest)
        except (Refused, NameTaken) as error:
            await self._refuse(key, manifest, Verdict("progressing", Reason.DELETING, f"Deleted; {error}"))
            raise

    async def _plan(self, resource: AnyResource) -> Plan:
        now = self._clock.now()
        if isinstance(resource, QuantJob):
            return plan_quantjob(await gather.gather_quantjob(self._cluster, resource, self._placement), now)
        if isinstance(resource, InferenceService):
            snapshot = await gather.gather_inferenceservice(self._cluster, resource, self._placement)
            return plan_inferenceservice(self._count(self._scale(snapshot)), now)
        return plan_slmmodel(await gather.gather_slmmodel(self._cluster, resource, self._placement), now)

    def _scale(self, snapshot: ServiceSnapshot) -> ServiceSnapshot:
        """With the number of engines that demand asks for, where it decides."""
        service, deployment = snapshot.service, snapshot.deployment
        if service.spec.autoscaling is None or service.spec.replicas == 0:
            return snapshot
        wanted = deployment["spec"]["replicas"] if deployment else None
        return replace(snapshot, scaling=self._autoscaler.decide(service, wanted, count(deployment, "readyReplicas")))

    def _count(self, snapshot: ServiceSnapshot) -> ServiceSnapshot:
        """With what gateways counted in the step of a canary."""
        meta, canary = snapshot.service.metadata, snapshot.service.status.canary
        key = ObjectKey(snapshot.service.kind, meta.namespace, meta.name)
        if canary is None:
            self._autoscaler.canaries.forget(key)
            return snapshot
        answers = self._autoscaler.canaries.of(key, name_step(canary.template, canary.percent, canary.since))
        return replace(snapshot, canary=replace(snapshot.canary, answers=answers))

    async def _execute(self, key: ObjectKey, plan: Plan, manifest: Manifest | None) -> float | None:
        if plan.hold and manifest:
            await self._hold(key, manifest, wanted=True)
        for gone in plan.delete:
            await self._cluster.delete(gone)
        written = [key_of(child) for child in plan.create if await self._create(child)]
        written += [key_of(child) for child in plan.apply if await self._apply(child)]
        if plan.status is not None:
            await self._cluster.update_status(key, plan.status, uid_of(manifest))
            self._tell(key, manifest, plan, written)
        for event in plan.events:
            await self._cluster.record(event)
        if plan.hold is False and manifest:
            await self._hold(key, manifest, wanted=False)
        return plan.requeue_after_seconds

    async def _create(self, child: Manifest) -> bool:
        """Whether it had to be written."""
        missing = await self._cluster.get(key_of(child)) is None
        _require_own(child, await self._cluster.create(child))
        return missing

    async def _apply(self, child: Manifest) -> bool:
        """Whether it had to be written."""
        found = await self._cluster.get(key_of(child))
        if found is not None:
            _require_own(child, found)
        if is_applied(child, found):
            return False
        await self._cluster.apply(child)
        return True

    def _tell(self, key: ObjectKey, manifest: Manifest | None, plan: Plan, written: Sequence[ObjectKey]) -> None:
        """Count what the object is now, and log a line when that is another decision than the last."""
        before, now = (_ready(status) for status in ((manifest or {}).get("status"), plan.status))
        self._observer.judged(key, now.get("status", ""), now.get("reason", ""))
        if not written and not plan.delete and before.get("reason") == now.get("reason"):
            return
        decision = {"object": str(key), "reason": now.get("reason"), "decision": now.get("message")}
        children = {"written": [str(each) for each in written], "deleted": [str(each) for each in plan.delete]}
        log.info("decided", extra=decision | {name: keys for name, keys in children.items() if keys})

    async def _hold(self, key: ObjectKey, manifest: Manifest, *, wanted: bool) -> None:
        """Add our finalizer to the object, or take it away; others' stay."""
        before = list(manifest["metadata"].get("finalizers") or [])
        after = [name for name in before if name != FINALIZER] + [FINALIZER] * wanted
        if after != before:
            await self._cluster.set_finalizers(key, manifest["metadata"]["resourceVersion"], after)

    async def _refuse(self, key: ObjectKey, manifest: Manifest, verdict: Verdict) -> None:
        await self._cluster.update_status(key, restate(manifest, verdict, self._clock.now()), uid_of(manifest))
        for event in build_events(key, verdict, read_conditions(manifest.get("status") or {})):
            await self._cluster.record(event)


def uid_of(manifest: Manifest | None) -> str:
    """Identity of the very object that was looked at."""
    return str(manifest["metadata"].get("uid", "")) if manifest else ""


def _ready(status: Manifest | None) -> Manifest:
    """The Ready condition of a status, or an empty one."""
    return next((each for each in (status or {}).get("conditions", []) if each.get("type") == "Ready"), {})


def _require_own(child: Manifest, found: Manifest) -> None:
    """Raise NameTaken when ``found`` is somebody else's, and Conflict when it is only not gone yet."""
    problem = check_owner(child, found)
    if problem is None:
        return
    mine, theirs = controller_reference(child), controller_reference(found)
    if theirs and all(mine.get(name) == theirs[name] for name in ("kind", "name")):
        raise Conflict(f"{key_of(found)} of an earlier object of the same name is still being removed.")
    raise NameTaken(problem)
