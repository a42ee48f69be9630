"""Reads everything a planner looks at, through the Cluster port only."""

from collections.abc import Container
from dataclasses import replace

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import KINDS, AnyResource, parse_resource
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.accelerators import Published
from slm_operator.core.canary_scene import CanaryView
from slm_operator.core.companions import list_companions
from slm_operator.core.manifests.canary import canary_key
from slm_operator.core.manifests.deployment import address_name
from slm_operator.core.manifests.metadata import (
    CANARY,
    ENGINE_STEPS,
    LABEL_KIND,
    LABEL_NAME,
    LABEL_STEP,
    SERVE,
    build_labels,
    controller_of,
)
from slm_operator.core.manifests.network import POLICY_NAMES
from slm_operator.core.placement import ClusterPods, Placement
from slm_operator.core.plan_deletion import COLLECT_LABEL, DeletionSnapshot
from slm_operator.core.plan_quantjob import QuantSnapshot
from slm_operator.core.plan_slmmodel import ModelSnapshot
from slm_operator.core.plan_store import StoreSnapshot
from slm_operator.core.pods import is_live
from slm_operator.core.roots import KEEPING_KINDS, find_roots, has_ended
from slm_operator.core.service_snapshot import ServiceSnapshot
from slm_operator.core.serving import needs_nodes
from slm_operator.core.steps import Children
from slm_operator.core.store import CLAIM_KIND, StoreView
from slm_operator.ports import Cluster, Manifest, ObjectKey


async def _fetch(cluster: Cluster, kind: str, namespace: str, name: str) -> AnyResource | None:
    """The object, unless it is being deleted: what it made is about to go."""
    manifest = await cluster.get(ObjectKey(kind, namespace, name))
    if manifest is None or manifest["metadata"].get("deletionTimestamp"):
        return None
    return parse_resource(manifest)


async def gather_model_named(cluster: Cluster, namespace: str, name: str) -> SLMModel | None:
    """The SLMModel of that name."""
    found = await _fetch(cluster, "SLMModel", namespace, name)
    return found if isinstance(found, SLMModel) else None


async def gather_children(
    cluster: Cluster, namespace: str, labels: dict[str, str], uid: str, answered: Container[str] = ()
) -> Children:
    """Jobs with these labels that the owner of that uid controls, and the Pods of these very Jobs.

    What is left of an earlier owner of the same name tells of bytes that are gone. A Job whose end is known before its
    Pod's must not be taken for one that left no result, and be run again: of such Pods the cluster itself is asked,
    unless the owner has the Job's name among those that ``answered``.
    """
    jobs = [job for job in await cluster.list("Job", namespace, labels) if controller_of(job) == uid]
    uids = {job["metadata"]["uid"] for job in jobs}
    pods = [pod for pod in await cluster.list("Pod", namespace, labels) if controller_of(pod) in uids]
    known = Children.of(jobs, pods)
    if not known.are_behind(answered):
        return known
    pods = [pod for pod in await cluster.list_anew("Pod", namespace, labels) if controller_of(pod) in uids]
    return Children.of(jobs, pods)


async def gather_store(cluster: Cluster, namespace: str, placement: Placement) -> StoreView | None:
    """The namespace's store; None on the local backend."""
    pods = placement.pods
    if pods is None:
        return None
    found = [await cluster.get(ObjectKey("NetworkPolicy", namespace, name)) for name in POLICY_NAMES]
    claim = await cluster.get(ObjectKey(CLAIM_KIND, namespace, pods.claim))
    uid = claim["metadata"]["uid"] if claim else ""
    return StoreView(
        name=pods.claim,
        claim=claim,
        policies=tuple(policy for policy in found if policy is not None),
        collections=await gather_children(cluster, namespace, _labels(CLAIM_KIND, pods.claim), uid),
    )


async def gather_slmmodel(cluster: Cluster, model: SLMModel, placement: Placement) -> ModelSnapshot:
    """What plan_slmmodel looks at."""
    namespace = model.metadata.namespace
    children = await gather_children(cluster, namespace, build_labels(model), model.metadata.uid, model.status.results)
    return ModelSnapshot(model, children, placement, await gather_store(cluster, namespace, placement))


async def gather_quantjob(cluster: Cluster, job: QuantJob, placement: Placement) -> QuantSnapshot:
    """What plan_quantjob looks at."""
    namespace = job.metadata.namespace
    model = await gather_model_named(cluster, namespace, job.spec.model_ref.name)
    children = await gather_children(cluster, namespace, build_labels(job), job.metadata.uid, job.status.results)
    return QuantSnapshot(job, model, children, placement, await gather_store(cluster, namespace, placement))


async def gather_inferenceservice(cluster: Cluster, service: InferenceService, placement: Placement) -> ServiceSnapshot:
    """What plan_inferenceservice looks at."""
    namespace, name = service.metadata.namespace, service.metadata.name
    quant_job, model_name = None, service.spec.model_ref.name if service.spec.model_ref else ""
    if service.spec.quant_job_ref is not None:
        found = await _fetch(cluster, "QuantJob", namespace, service.spec.quant_job_ref.name)
        quant_job = found if isinstance(found, QuantJob) else None
        model_name = quant_job.spec.model_ref.name if quant_job else ""
    pods = await cluster.list("Pod", namespace, {**build_labels(service), LABEL_STEP: SERVE})
    named = list_companions(service.spec).values()
    beside = {each: await gather_model_named(cluster, namespace, each) for each in named}
    canary = service.spec.rollout is not None or service.status.canary is not None
    snapshot = ServiceSnapshot(
        service=service,
        model=await gather_model_named(cluster, namespace, model_name) if model_name else None,
        quant_job=quant_job,
        children=await gather_children(cluster, namespace, build_labels(service), service.metadata.uid),
        deployment=await cluster.get(ObjectKey("Deployment", namespace, name)),
        address=await cluster.get(ObjectKey("Service", namespace, address_name(name))),
        pods=tuple(pods),
        placement=placement,
        companions={each: model for each, model in beside.items() if model is not None},
        store=await gather_store(cluster, namespace, placement),
        budget=await cluster.get(ObjectKey("PodDisruptionBudget", namespace, name)) if placement.pods else None,
        canary=await _gather_canary(cluster, service) if canary else CanaryView(),
        claim_templates=tuple(await cluster.list("ResourceClaimTemplate", namespace, build_labels(service)))
        if placement.pods
        else (),
    )
    return replace(snapshot, published=await _gather_published(cluster)) if needs_nodes(snapshot) else snapshot


async def _gather_published(cluster: Cluster) -> Published:
    nodes, slices, classes = [tuple(await cluster.list(kind)) for kind in ("Node", "ResourceSlice", "DeviceClass")]
    return Published(nodes, slices, classes)


async def _gather_canary(cluster: Cluster, service: InferenceService) -> CanaryView:
    labels = {**build_labels(service), LABEL_STEP: CANARY}
    pods = await cluster.list("Pod", service.metadata.namespace, labels)
    return CanaryView(await cluster.get(canary_key(service)), tuple(pods))


async def gather_namespace(cluster: Cluster, namespace: str, placement: Placement, pods: ClusterPods) -> StoreSnapshot:
    """What plan_store looks at."""
    models = [item for item in await cluster.list("SLMModel", namespace) if not _is_going(item)]
    endpoints = [item.get("spec", {}).get("source", {}).get("huggingFace", {}).get("endpoint", "") for item in models]
    store = await gather_store(cluster, namespace, placement) or StoreView(pods.claim)
    return StoreSnapshot(namespace, store, sorted(set(endpoints)) if models else None, placement)


async def gather_deletion(cluster: Cluster, manifest: Manifest, placement: Placement, name: str) -> DeletionSnapshot:
    """What plan_deletion looks at: as the only planner, at the whole namespace. ``name`` is the claim's."""
    meta = manifest["metadata"]
    namespace, mine = meta["namespace"], _labels(manifest["kind"], meta["name"])
    objects = [item for kind in KEEPING_KINDS for item in await cluster.list(kind, namespace)]
    living = {
        (item["kind"], item["metadata"]["name"]) for item in objects if item["kind"] in KINDS and not _is_going(item)
    }
    return DeletionSnapshot(
        manifest=manifest,
        children=Children.of(await cluster.list("Job", namespace, mine), await cluster.list("Pod", namespace, mine)),
        busy=sorted(item["metadata"]["name"] for item in objects if _is_busy(item) and not _has(item, mine)),
        roots=find_roots(item for item in objects if _works_for(item) in living),
        store=await gather_store(cluster, namespace, placement) or StoreView(name),
        placement=placement,
    )


def _labels(kind: str, name: str) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "slm-operator", LABEL_KIND: kind, LABEL_NAME: name}


def _has(manifest: Manifest, labels: dict[str, str]) -> bool:
    return labels.items() <= (manifest["metadata"].get("labels") or {}).items()


def _is_going(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("deletionTimestamp"))


def _works_for(manifest: Manifest) -> tuple[str, str]:
    """Kind and name of the object of ours that it is, or is a child of.

    A child outlives its owner by the time it is given to end; a file that it has open stays readable until then.
    """
    meta = manifest["metadata"]
    labels = meta.get("labels") or {}
    if manifest["kind"] in KINDS:
        return manifest["kind"], meta["name"]
    return labels.get(LABEL_KIND, ""), labels.get(LABEL_NAME, "")


def _is_busy(manifest: Manifest) -> bool:
    """Whether it is a step's Job or Pod that may write to the store."""
    step = (manifest["metadata"].get("labels") or {}).get(LABEL_STEP, "")
    if step in ("", *ENGINE_STEPS, COLLECT_LABEL):
        return False
    return not has_ended(manifest) if manifest["kind"] == "Job" else manifest["kind"] == "Pod" and is_live(manifest)
