"""Carries out plans: one object at a time, nothing but what the plan says."""

from pydantic import TypeAdapter, ValidationError

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.meta import Condition
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import KINDS, AnyResource, parse_resource
from slm_operator.core.conditions import Verdict, build_conditions, build_events
from slm_operator.core.diff import is_applied
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Plan, key_of
from slm_operator.core.plan_inferenceservice import plan_inferenceservice
from slm_operator.core.plan_quantjob import plan_quantjob
from slm_operator.core.plan_slmmodel import plan_slmmodel
from slm_operator.errors import Conflict, InvalidManifest
from slm_operator.ports import Clock, Cluster, Manifest, ObjectKey
from slm_operator.reconcile import gather

CONDITIONS = TypeAdapter(list[Condition])


class Reconciler:
    """Brings objects of our kinds to where their specs want them."""

    def __init__(self, cluster: Cluster, clock: Clock, placement: Placement) -> None:
        self._cluster = cluster
        self._clock = clock
        self._placement = placement

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one object and act; returns the seconds after which to look again, if any."""
        manifest = await self._cluster.get(key)
        if key.kind not in KINDS or manifest is None or manifest["metadata"].get("deletionTimestamp"):
            return None
        try:
            resource = parse_resource(manifest)
        except InvalidManifest as error:
            await self._refuse(key, manifest, Verdict("stalled", error.reason, str(error)))
            return None
        try:
            return await self._execute(key, await self._plan(resource))
        except Conflict as error:
            await self._refuse(key, manifest, Verdict("stalled", Reason.NAME_CONFLICT, str(error)))
            raise

    async def _plan(self, resource: AnyResource) -> Plan:
        now = self._clock.now()
        if isinstance(resource, QuantJob):
            return plan_quantjob(await gather.gather_quantjob(self._cluster, resource, self._placement), now)
        if isinstance(resource, InferenceService):
            snapshot = await gather.gather_inferenceservice(self._cluster, resource, self._placement)
            return plan_inferenceservice(snapshot, now)
        return plan_slmmodel(await gather.gather_slmmodel(self._cluster, resource, self._placement), now)

    async def _execute(self, key: ObjectKey, plan: Plan) -> float | None:
        for child in plan.delete:
            await self._cluster.delete(child)
        for manifest in plan.apply:
            if not is_applied(manifest, await self._cluster.get(key_of(manifest))):
                await self._cluster.apply(manifest)
        if plan.status is not None:
            await self._cluster.update_status(key, plan.status)
        for event in plan.events:
            await self._cluster.record(event)
        return plan.requeue_after_seconds

    async def _refuse(self, key: ObjectKey, manifest: Manifest, verdict: Verdict) -> None:
        meta, before = manifest["metadata"], manifest.get("status") or {}
        generation = int(meta.get("generation", 1))
        previous = _read_conditions(before)
        conditions = build_conditions(verdict, previous, generation, self._clock.now())
        status = {
            **before,
            "observedGeneration": generation,
            "conditions": [item.model_dump(mode="json", by_alias=True) for item in conditions],
        }
        await self._cluster.update_status(key, status)
        for event in build_events(key, verdict, previous):
            await self._cluster.record(event)


def _read_conditions(status: Manifest) -> list[Condition]:
    """Conditions of a status that may be as malformed as the rest of its object."""
    try:
        return CONDITIONS.validate_python(status.get("conditions", []))
    except ValidationError:
        return []
