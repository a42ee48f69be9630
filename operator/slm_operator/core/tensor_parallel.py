"""Over how many GPUs of one node a model may be split, by its shape.

vLLM refuses a size that does not divide the attention heads ("must be divisible by tensor parallel size"); key-value
heads are split while there are enough of them, and copied beyond that, so that one number must divide the other
(vllm/config/model.py, ``get_num_kv_heads``). The feed-forward layer's width is split as well.
"""

from slm_contract.results import Dimensions


def tensor_parallel_sizes(shape: Dimensions | None, devices: int) -> list[int]:
    """Powers of two up to ``devices`` that the shape can be split by, smallest first; without a shape only 1.

    Powers of two, as collective operations and NVLink topologies are built for them.
    """
    sizes = [2**power for power in range(devices.bit_length())] if devices > 0 else []
    return [size for size in sizes if size == 1 or (shape is not None and not why_not_split(shape, size))]


def why_not_split(shape: Dimensions, size: int) -> str:
    """Why the shape cannot be split by ``size``, as half a sentence, or nothing."""
    if shape.heads % size:
        return f"it does not divide the model's {shape.heads} attention heads"
    if shape.kv_heads % size and size % shape.kv_heads:
        return f"neither it nor the model's {shape.kv_heads} key-value heads divides the other"
    if shape.intermediate_size % size:
        return f"it does not divide the model's feed-forward width of {shape.intermediate_size}"
    return ""
