"""CPU, memory and disk of a container: what the user says, and on a cluster sensible values for what is left unsaid.

A namespace with a ResourceQuota refuses pods that leave a request or a limit open, so there every container has both.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import prod

from slm_contract import specs
from slm_contract.results import ModelShape
from slm_operator.api.meta import ResourceRequirements
from slm_operator.core.placement import ClusterPods
from slm_operator.core.plan import Manifest
from slm_operator.core.quantity import format_mebibytes, parse_quantity
from slm_operator.core.sizes import list_tensors, serving_bytes

MIB = 2**20
PROCESS_BYTES = 256 * MIB
"""What a step or an engine holds besides tensors: interpreter, tokenizer, tables, threads' stacks."""
HEADROOM = 1.25
"""Limit over request: forecasts are exact for weights and KV cache, and an upper bound for the rest."""
SPARE_BYTES = 512 * MIB
"""Added to every limit: a small model has as large a tokenizer as a large one."""
TEMPORARY_REQUEST = "64Mi"
"""Disk that is reserved for a container's ``/tmp`` and its log."""


@dataclass(frozen=True)
class Memory:
    """What a container is expected to need."""

    request_bytes: int = PROCESS_BYTES
    mapped_bytes: int = 0
    """Files that are read through the page cache: it counts against the limit, but can be dropped."""

    @property
    def limit_bytes(self) -> int:
        """Where a container is ended: well above what is expected."""
        return int(self.request_bytes * HEADROOM) + SPARE_BYTES + self.mapped_bytes


SMALL = Memory()
"""For steps that hold no tensor."""


def fill_resources(given: ResourceRequirements, memory: Memory, pods: ClusterPods) -> Manifest:
    """The container's resources; a request is never above its limit, whichever of the two the user gave."""
    requests, limits = dict(given.requests), dict(given.limits)
    expected = {
        "cpu": (pods.cpu_request, pods.cpu_limit),
        "memory": (format_mebibytes(memory.request_bytes), format_mebibytes(memory.limit_bytes)),
        "ephemeral-storage": (TEMPORARY_REQUEST, pods.temporary_storage),
    }
    for name, (request, limit) in expected.items():
        requests.setdefault(name, min(request, limits.get(name, request), key=parse_quantity))
        if limit:
            limits.setdefault(name, max(limit, requests[name], key=parse_quantity))
    return {"requests": requests, "limits": limits}


def cpu_limit(given: ResourceRequirements, pods: ClusterPods | None) -> str:
    """The CPU limit that a container will have, a quantity; empty for none."""
    return str(fill_resources(given, SMALL, pods)["limits"].get("cpu", "")) if pods else given.limits.get("cpu", "")


def engine_memory(weights_bytes: int, serving: int, process_bytes: int = PROCESS_BYTES) -> Memory:
    """What an engine on CPUs needs; ``serving`` is the forecast, or 0 where the model's shape is not known."""
    # Without a shape nobody knows the KV cache: half of the weights is what small models take for long contexts.
    return Memory(process_bytes + (serving or weights_bytes * 3 // 2))


def with_room(pods: ClusterPods, cpu_limit: str, temporary_storage: str) -> ClusterPods:
    """The settings with limits of at least these for what a user leaves unsaid; empty asks for nothing."""
    larger = partial(max, key=parse_quantity)
    return replace(
        pods,
        cpu_limit=larger(pods.cpu_limit, cpu_limit or "0") if pods.cpu_limit else "",
        temporary_storage=larger(pods.temporary_storage, temporary_storage or "0"),
    )


def step_memory(step: specs.AnySpec, shape: ModelShape | None, source_bytes: int) -> Memory:
    """What a step needs that reads a file of ``source_bytes``.

    Convert and quantize hold a few copies of one tensor at a time, in float32 at most, whatever the size of the
    model; what they read is mapped. Evaluate and benchmark serve the file, and evaluate also holds the logits of a
    chunk. Figures measured with tests/local/test_large_model.py.
    """
    if isinstance(step, specs.ConvertSpec | specs.AdaptSpec | specs.QuantizeSpec):
        return Memory(PROCESS_BYTES + 3 * _largest_tensor_bytes(shape, source_bytes), source_bytes)
    if isinstance(step, specs.EvaluateSpec):
        logits = 3 * 4 * step.context_size * shape.vocab_size if shape else 0
        return _serving_memory(shape, source_bytes, step.context_size, logits)
    if isinstance(step, specs.BenchmarkSpec):
        return _serving_memory(shape, source_bytes, step.prompt_tokens + step.generate_tokens, 0)
    return SMALL


def _serving_memory(shape: ModelShape | None, source_bytes: int, tokens: int, more_bytes: int) -> Memory:
    if shape is None:
        return engine_memory(source_bytes, 0)
    return Memory(PROCESS_BYTES + serving_bytes(shape, source_bytes, tokens, 1).total + more_bytes)


def _largest_tensor_bytes(shape: ModelShape | None, source_bytes: int) -> int:
    """The largest tensor in float32; of a model without a shape, its whole size."""
    if shape is None:
        return source_bytes
    return 4 * max(prod(tensor.shape) for tensor in list_tensors(shape))
