"""What a pod says so that it gets its GPUs: the resource and the nodes whose devices are large enough, or a claim."""

from slm_operator.api.inferenceservice import AcceleratorStatus, InferenceService
from slm_operator.core.accelerator_labels import build_tolerations
from slm_operator.core.manifests.pod import PodDemands
from slm_operator.core.manifests.resource_claim import REQUEST, build_claim_template
from slm_operator.core.plan import Manifest
from slm_operator.core.resources import MIB
from slm_operator.core.runtimes.order import Overhead


def add_devices(resources: Manifest, accelerator: AcceleratorStatus) -> Manifest:
    """The container's resources with its devices; whoever asked for some of them already has these."""
    if accelerator.device_class:
        return {**resources, "claims": [{"name": REQUEST}]}
    devices = {accelerator.resource: str(accelerator.count)}
    return {name: {**resources[name], **devices} for name in ("requests", "limits")}


def build_demands(service: InferenceService, accelerator: AcceleratorStatus, overhead: Overhead) -> PodDemands:
    """What the pod needs of its node beside CPUs and memory."""
    if not accelerator.count:
        return PodDemands(shared_memory=overhead.shared_memory, temporary_storage=overhead.temporary_storage)
    terms = []
    if accelerator.memory_label:
        # Devices of one resource differ, and a smaller one would end the engine in the middle of its start.
        least = -(-accelerator.memory_bytes * accelerator.shared_by // MIB)
        terms.append({"key": accelerator.memory_label, "operator": "Gt", "values": [str(least - 1)]})
    return PodDemands(
        tolerations=build_tolerations(accelerator.resource, accelerator.vendor),
        node_expressions=tuple(terms),
        claims=_build_claims(service, accelerator),
        shared_memory=overhead.shared_memory,
        temporary_storage=overhead.temporary_storage,
    )


def _build_claims(service: InferenceService, accelerator: AcceleratorStatus) -> tuple[Manifest, ...]:
    if not accelerator.device_class:
        return ()
    template = build_claim_template(service, accelerator)
    return ({"name": REQUEST, "resourceClaimTemplateName": template["metadata"]["name"]},)
