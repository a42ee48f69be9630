"""Reads everything a planner looks at, through the Cluster port only."""

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import AnyResource, parse_resource
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.manifests.metadata import LABEL_STEP, build_labels
from slm_operator.core.placement import Placement
from slm_operator.core.plan_inferenceservice import ServiceSnapshot
from slm_operator.core.plan_quantjob import QuantSnapshot
from slm_operator.core.plan_slmmodel import ModelSnapshot
from slm_operator.core.steps import Children
from slm_operator.ports import Cluster, Manifest, ObjectKey


async def _fetch(cluster: Cluster, kind: str, namespace: str, name: str) -> AnyResource | None:
    manifest = await cluster.get(ObjectKey(kind, namespace, name))
    return None if manifest is None else parse_resource(manifest)


async def gather_model_named(cluster: Cluster, namespace: str, name: str) -> SLMModel | None:
    """The SLMModel of that name."""
    found = await _fetch(cluster, "SLMModel", namespace, name)
    return found if isinstance(found, SLMModel) else None


async def _pods(cluster: Cluster, owner: AnyResource) -> list[Manifest]:
    return list(await cluster.list("Pod", owner.metadata.namespace, build_labels(owner)))


async def gather_children(cluster: Cluster, owner: AnyResource) -> Children:
    """Jobs of the owner and their Pods."""
    jobs = await cluster.list("Job", owner.metadata.namespace, build_labels(owner))
    return Children.of(jobs, await _pods(cluster, owner))


async def gather_slmmodel(cluster: Cluster, model: SLMModel, placement: Placement) -> ModelSnapshot:
    """What plan_slmmodel looks at."""
    return ModelSnapshot(model, await gather_children(cluster, model), placement)


async def gather_quantjob(cluster: Cluster, job: QuantJob, placement: Placement) -> QuantSnapshot:
    """What plan_quantjob looks at."""
    model = await gather_model_named(cluster, job.metadata.namespace, job.spec.model_ref.name)
    return QuantSnapshot(job, model, await gather_children(cluster, job), placement)


async def gather_inferenceservice(cluster: Cluster, service: InferenceService, placement: Placement) -> ServiceSnapshot:
    """What plan_inferenceservice looks at."""
    namespace, name = service.metadata.namespace, service.metadata.name
    quant_job, model_name = None, service.spec.model_ref.name if service.spec.model_ref else ""
    if service.spec.quant_job_ref is not None:
        found = await _fetch(cluster, "QuantJob", namespace, service.spec.quant_job_ref.name)
        quant_job = found if isinstance(found, QuantJob) else None
        model_name = quant_job.spec.model_ref.name if quant_job else ""
    pods = await _pods(cluster, service)
    return ServiceSnapshot(
        service=service,
        model=await gather_model_named(cluster, namespace, model_name) if model_name else None,
        quant_job=quant_job,
        children=await gather_children(cluster, service),
        deployment=await cluster.get(ObjectKey("Deployment", namespace, name)),
        address=await cluster.get(ObjectKey("Service", namespace, name)),
        pods=tuple(pod for pod in pods if pod["metadata"].get("labels", {}).get(LABEL_STEP) == "serve"),
        placement=placement,
    )
