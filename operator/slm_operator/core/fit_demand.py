"""What one engine needs: of a node's memory, or of each of its GPUs."""

from dataclasses import dataclass, replace

from slm_contract.results import Dimensions
from slm_operator.core.inventory import Accelerator
from slm_operator.core.quantity import format_bytes
from slm_operator.core.resources import engine_memory
from slm_operator.core.sizes import BATCH_TOKENS, ServingMemory, lora_buffer_bytes, serving_bytes
from slm_operator.core.tensor_parallel import tensor_parallel_sizes, why_not_split

GIB = 2**30
LLAMA_CPP_MARGIN_BYTES = GIB
"""What llama.cpp itself leaves free on each device (``--fit-target``, 1024 MiB by default): driver context, kernels."""
VLLM_UTILIZATION = 0.9
"""Share of a GPU that vLLM takes (``--gpu-memory-utilization``, its default): the rest is driver context and slack."""
VLLM_BATCH_TOKENS, VLLM_LARGE_BATCH_TOKENS, VLLM_LARGE_DEVICE_BYTES = 2048, 8192, 70 * GIB
"""Tokens that vLLM computes at once (``--max-num-batched-tokens``): more on devices of 70 GiB and above
(vllm/engine/arg_utils.py, ``get_batch_defaults``)."""


VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be (vllm/config/lora.py): buffers are as large for every adapter."""
NOTHING = ServingMemory(0, 0, 0)


@dataclass(frozen=True)
class Draft:
    """A draft model that is loaded beside the served one, with a KV cache for the same slots."""

    shape: Dimensions | None
    """None where it is not known: then half of the weights stands for its KV cache, as ``engine_memory`` has it."""
    weights_bytes: int
    """Size of its weights, bytes."""
    max_tokens: int
    """Tokens that it proposes at a time; the served model computes logits for each."""


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters that are loaded beside the served model."""

    count: int
    rank: int
    """Highest rank among them."""
    size_bytes: int
    """Size of all of them, bytes."""


@dataclass(frozen=True)
class Demand:
    """What is to be served, and how."""

    shape: Dimensions | None
    """None where the model's dimensions are not known: then the weights are all that the estimate has."""
    weights_bytes: int
    """Size of the weights that an engine loads, bytes."""
    context_size: int
    """Tokens of one slot."""
    slots: int
    """Requests at the same time."""
    batch_tokens: int = BATCH_TOKENS
    """Tokens that llama.cpp computes at once."""
    kv_type: str = "f16"
    """Type of the KV cache's elements; never changed to make something fit."""
    variant: str = ""
    """Type of the weights, such as Q8_0, for the sentence; empty where it does not matter."""
    engine: str = "llama.cpp"
    """llama.cpp or vllm: they take memory differently and split a model differently."""
    draft: Draft | None = None
    """What proposes tokens, where something does."""
    projector_bytes: int = 0
    """Size of a multimodal projector, bytes: half as much again stands for its buffers, as nobody knows its shape."""
    adapters: Adapters | None = None
    """What changes the model for some requests, where anything does."""
    requested_bytes: int = 0
    """Memory of a node that spec.resources asks for, whatever is needed, bytes; 0 where it leaves it open."""

    def with_context(self, context_size: int) -> "Demand":
        """The same with another context."""
        whole = self.batch_tokens == self.context_size  # Of an engine that computes a text at once.
        return replace(self, context_size=context_size, batch_tokens=context_size if whole else self.batch_tokens)

    def with_slots(self, slots: int) -> "Demand":
        """The same with another number of slots."""
        return replace(self, slots=slots)

    @property
    def loaded_bytes(self) -> int:
        """Size of all that an engine loads, bytes."""
        drafting = self.draft.weights_bytes if self.draft else 0
        adapting = self.adapters.size_bytes if self.adapters else 0
        return self.weights_bytes + self.projector_bytes + adapting + drafting

    @property
    def serving(self) -> ServingMemory | None:
        """Weights, KV cache and compute buffers, with those of what is loaded beside; None without a shape."""
        if self.shape is None:
            return None
        served = self._serving(self.shape, self.weights_bytes + self.adapting_bytes(1))
        projector = ServingMemory(self.projector_bytes, 0, self.projector_bytes // 2)
        return served + projector + (self._drafting(self.draft, self.shape) if self.draft else NOTHING)

    def adapting_bytes(self, devices: int) -> int:
        """Memory for adapters on each of the GPUs, bytes.

        llama.cpp divides their files; vLLM copies them into buffers that it has for every projection.
        """
        if self.adapters is None:
            return 0
        if self.engine != "vllm" or self.shape is None:
            return -(-self.adapters.size_bytes // devices)
        rank, together = vllm_lora_rank(self.adapters.rank), min(self.adapters.count, self.slots)
        return lora_buffer_bytes(self.shape, rank, together, devices)

    def _drafting(self, draft: Draft, served: Dimensions) -> ServingMemory:
        weights, logits = draft.weights_bytes, 4 * self.slots * draft.max_tokens * served.vocab_size
        own = self._serving(draft.shape, weights) if draft.shape else ServingMemory(weights, weights // 2, 0)
        return own + ServingMemory(0, 0, logits)

    def _serving(self, shape: Dimensions, weights_bytes: int) -> ServingMemory:
        return serving_bytes(shape, weights_bytes, self.context_size, self.slots, self.kv_type, self.batch_tokens)

    def describe(self) -> str:
        """``needs 9.20 GiB: weights 4.58 GiB, KV cache 4.00 GiB (4 slots of 8192 tokens), buffers 134.0 MiB``."""
        if self.requested_bytes:
            return f"{format_bytes(self.requested_bytes)}, as spec.resources says,"
        serving, slots = self.serving, "1 slot" if self.slots == 1 else f"{self.slots} slots"
        if serving is None:
            return f"about {format_bytes(node_bytes(self))}, of which weights {format_bytes(self.loaded_bytes)}"
        beside = [*(["a draft model"] if self.draft else []), *(["a projector"] if self.projector_bytes else [])]
        beside += ["adapters"] if self.adapters else []
        named = (f" {self.variant}" if self.variant else "") + (f" with {' and '.join(beside)}" if beside else "")
        return (
            f"{format_bytes(serving.total)} (weights{named} {format_bytes(serving.weights)}, KV cache "
            f"{format_bytes(serving.kv_cache)} for {slots} of {self.context_size} tokens, buffers "
            f"{format_bytes(serving.compute)})"
        )


def vllm_lora_rank(rank: int) -> int:
    """The least ``--max-lora-rank`` with room for it; above all of them, which a step refuses, the rank itself."""
    return next((most for most in VLLM_LORA_RANKS if most >= rank), rank)


def node_bytes(demand: Demand) -> int:
    """Memory of a node that an engine on CPUs requests, bytes."""
    if demand.requested_bytes:
        return demand.requested_bytes
    serving = demand.serving
    # Besides its buffers vLLM keeps every adapter.
    kept = demand.adapters.size_bytes if demand.adapters and demand.engine == "vllm" else 0
    return engine_memory(demand.loaded_bytes, serving.total + kept if serving else 0).request_bytes


def device_bytes(demand: Demand, devices: int, accelerator: Accelerator) -> int:
    """Memory that each of ``devices`` GPUs must have, bytes, with what the engine leaves to the driver.

    Weights and KV cache are divided (key-value heads only as far as there are any); buffers are each device's own.
    """
    serving = demand.serving
    if serving is None:
        parts, compute = demand.loaded_bytes * 3 // 2 // devices, 0
    else:
        kv_parts = min(devices, demand.shape.kv_heads) if demand.shape and demand.engine == "vllm" else devices
        weights = -(-(serving.weights - demand.adapting_bytes(1)) // devices) + demand.adapting_bytes(devices)
        parts = weights + -(-serving.kv_cache // kv_parts)
        compute = serving.compute
    if demand.engine != "vllm":
        return parts + compute + LLAMA_CPP_MARGIN_BYTES
    large = accelerator.memory_bytes >= VLLM_LARGE_DEVICE_BYTES
    batch = VLLM_LARGE_BATCH_TOKENS if large else VLLM_BATCH_TOKENS
    return int((parts + compute * batch // BATCH_TOKENS) / VLLM_UTILIZATION)


def splits(demand: Demand, devices: int) -> list[int]:
    """Numbers of GPUs that the engine can split the model over, smallest first.

    llama.cpp gives each device whole layers, so any number will do up to the number of layers.
    """
    if demand.engine == "vllm":
        draft = demand.draft.shape if demand.draft else None  # Split like the served model: vLLM does not do otherwise.
        return [
            size for size in tensor_parallel_sizes(demand.shape, devices) if not draft or not why_not_split(draft, size)
        ]
    return list(range(1, min(devices, demand.shape.layers if demand.shape else devices) + 1))
