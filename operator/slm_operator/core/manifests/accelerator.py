"""What a pod says so that it gets its GPUs: the resource, the nodes whose devices are large enough, their taints."""

from slm_operator.api.inferenceservice import AcceleratorStatus
from slm_operator.core.accelerator_labels import build_tolerations
from slm_operator.core.manifests.pod import PodDemands
from slm_operator.core.plan import Manifest
from slm_operator.core.resources import MIB
from slm_operator.core.runtimes.order import Overhead


def add_devices(resources: Manifest, resource: str, count: int) -> Manifest:
    """The container's resources with so many devices; whoever asked for some of them already has these."""
    devices = {resource: str(count)}
    return {name: {**resources[name], **devices} for name in ("requests", "limits")}


def build_demands(accelerator: AcceleratorStatus, overhead: Overhead) -> PodDemands:
    """What the pod needs of its node beside CPUs and memory."""
    if not accelerator.resource:
        return PodDemands(shared_memory=overhead.shared_memory, temporary_storage=overhead.temporary_storage)
    terms = []
    if accelerator.memory_label:
        # Devices of one resource differ, and a smaller one would end the engine in the middle of its start.
        least = -(-accelerator.memory_bytes // MIB)
        terms.append({"key": accelerator.memory_label, "operator": "Gt", "values": [str(least - 1)]})
    return PodDemands(
        tolerations=build_tolerations(accelerator.resource),
        node_expressions=tuple(terms),
        shared_memory=overhead.shared_memory,
        temporary_storage=overhead.temporary_storage,
    )
