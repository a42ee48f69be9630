"""Exact sizes of quantized files, and the memory it takes to serve them, from a model's shape alone.

The choice of a type per tensor follows llama.cpp's src/llama-quant.cpp (``llama_tensor_get_type``) for files that are
quantized without an importance matrix; block sizes are those of ggml/src/ggml-common.h.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from slm_contract.results import Dimensions, ModelShape

ALIGNMENT = 32
"""GGUF_DEFAULT_ALIGNMENT: header and every tensor are padded to it."""
BLOCKS: Mapping[str, tuple[int, int]] = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
    "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
}  # fmt: skip
"""Tensor type to elements and bytes of one block."""


@dataclass(frozen=True)
class QuantType:
    """A file type of llama-quantize."""

    base: str
    """Type of the tensors that no rule treats differently."""

    @property
    def block_size(self) -> int:
        """Elements that share a scale; rows should be multiples of it."""
        return BLOCKS[self.base][0]

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the base type; a file's average is a little higher."""
        elements, size = BLOCKS[self.base]
        return size * 8 / elements


QUANT_TYPES: Mapping[str, QuantType] = {
    name: QuantType(base)
    for base, names in {
        "F32": ["F32"], "F16": ["F16"], "BF16": ["BF16"], "Q4_0": ["Q4_0"], "Q4_1": ["Q4_1"], "Q5_0": ["Q5_0"],
        "Q5_1": ["Q5_1"], "Q8_0": ["Q8_0"], "Q2_K": ["Q2_K", "Q2_K_S"], "Q3_K": ["Q3_K_S", "Q3_K_M", "Q3_K_L"],
        "Q4_K": ["Q4_K_S", "Q4_K_M"], "Q5_K": ["Q5_K_S", "Q5_K_M"], "Q6_K": ["Q6_K"], "IQ4_NL": ["IQ4_NL"],
        "IQ4_XS": ["IQ4_XS"], "TQ1_0": ["TQ1_0"], "TQ2_0": ["TQ2_0"],
    }.items()
    for name in names
}  # fmt: skip
"""llama-quantize type name to what is known of it. Q2_K_S is sized, but llama-quantize wants an importance matrix."""

FALLBACK: Mapping[str, str] = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
"""What takes the place of a 256-element block when a row is no multiple of 256 (``tensor_type_fallback``)."""
GQA_BOOST = 4
"""At four or more query heads per key-value head attn_v is small, and llama.cpp spends more bits on it."""
BATCH_TOKENS = 512
"""llama-server's default ``--ubatch-size``: tokens computed at once."""
LARGE_LLAMA_LAYERS = 80
"""LLM_TYPE_70B is a Llama of 80 layers with grouped-query attention."""


class UnknownTypeError(ValueError):
    """The type is not in QUANT_TYPES; ``str()`` is a sentence for the user."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not a known quantization type: use one of {', '.join(QUANT_TYPES)}.")


@dataclass(frozen=True)
class TensorShape:
    """One tensor of the GGUF."""

    name: str
    shape: tuple[int, ...]
    """Rows first; the last is the row length."""
    layer: int = 0


@dataclass(frozen=True)
class ServingMemory:
    """Bytes an engine needs."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        """Sum of the three."""
        return self.weights + self.kv_cache + self.compute

    def __add__(self, other: "ServingMemory") -> "ServingMemory":
        """What two models need that are loaded together."""
        return ServingMemory(self.weights + other.weights, self.kv_cache + other.kv_cache, self.compute + other.compute)


PARAMETER_CLASSES = ((100_000_000, "Nano"), (1_500_000_000, "Micro"), (14_000_000_000, "Small"))
MEDIUM_LIMIT = 30_000_000_000


def parameter_class(parameters: int) -> str:
    """Nano below 100M, Micro from 100M, Small from 1.5B, Medium from 14B to 30B, Large above."""
    for limit, name in PARAMETER_CLASSES:
        if parameters < limit:
            return name
    return "Medium" if parameters <= MEDIUM_LIMIT else "Large"


def gguf_bytes(shape: ModelShape, type: str) -> int:  # noqa: A002 (the manifests' own word)
    """Exact size on disk of the converted model, quantized to ``type`` by llama-quantize without an importance matrix.

    llama-quantize copies the key-values and replaces two of them (quantization version, file type) by values of the
    same length, so the key-value section keeps its size. Raises UnknownTypeError.
    """
    tensors = list_tensors(shape)
    infos = sum(8 + len(tensor.name) + 4 + 8 * len(tensor.shape) + 4 + 8 for tensor in tensors)
    header = 24 + shape.metadata_bytes + infos
    return _padded(header) + sum(_padded(size) for size in _tensor_sizes(shape, tensors, type))


def weight_bytes(shape: ModelShape, type: str) -> int:  # noqa: A002
    """Bytes of the tensors alone, without header and padding; raises UnknownTypeError."""
    return sum(_tensor_sizes(shape, list_tensors(shape), type))


def parameter_count(shape: ModelShape) -> int:
    """Elements of all tensors of the GGUF."""
    return sum(prod(tensor.shape) for tensor in list_tensors(shape))


def bits_per_weight(shape: ModelShape, type: str) -> float:  # noqa: A002
    """Average bits per weight, as llama-quantize prints them; raises UnknownTypeError."""
    return weight_bytes(shape, type) * 8 / parameter_count(shape)


def list_tensors(shape: ModelShape) -> list[TensorShape]:
    """Every tensor of the GGUF."""
    tensors = [
        TensorShape("token_embd.weight", (shape.vocab_size, shape.hidden_size)),
        TensorShape("output_norm.weight", (shape.hidden_size,)),
    ]
    if not shape.tied_embeddings:
        tensors.append(TensorShape("output.weight", (shape.vocab_size, shape.hidden_size)))
    if shape.rope_factors:
        tensors.append(TensorShape("rope_freqs.weight", (shape.head_dim // 2,)))
    for layer in range(shape.layers):
        tensors += [TensorShape(f"blk.{layer}.{name}", dims, layer) for name, dims in _layer(shape).items()]
    return tensors


def tensor_type(shape: ModelShape, tensor: TensorShape, type: str) -> str:  # noqa: A002
    """The type that llama-quantize gives a tensor; raises UnknownTypeError."""
    if type not in QUANT_TYPES:
        raise UnknownTypeError(type)
    base = QUANT_TYPES[type].base
    if len(tensor.shape) == 1:
        return "F32"
    if BLOCKS[base][0] == 1:
        return base
    return _fitting(_preferred(shape, tensor, type, base), tensor.shape[-1])


def serving_bytes(
    shape: Dimensions,
    weights_bytes: int,
    context: int,
    slots: int,
    kv_type: str = "f16",
    batch_tokens: int = BATCH_TOKENS,
) -> ServingMemory:
    """Memory to serve ``slots`` requests of ``context`` tokens each with llama-server.

    KV cache, exact: 2 (keys and values) x layers x kv_heads x head_dim x tokens x bytes per element, with each slot's
    tokens rounded up to 256 (llama.cpp, ``llama_kv_cache``). Compute, an upper bound with flash attention: float32
    intermediates of one batch, the f16 attention mask, and the logits of one token per slot; the factors were fitted
    to the buffers that llama-server b11669 reports for five shapes (four exactly, one 14 % above).
    ``batch_tokens`` are computed at once (``--ubatch-size``). Raises UnknownTypeError for an unknown ``kv_type``.
    """
    tokens = -(-context // 256) * 256
    kv_row = shape.kv_heads * shape.head_dim
    kv_cache = 2 * shape.layers * tokens * slots * _row_bytes(kv_type.upper(), kv_row)
    attention = 2 * shape.heads * shape.head_dim + kv_row
    per_token = 4 * (5 * shape.hidden_size + max(3 * shape.intermediate_size, attention)) + 2 * tokens
    compute = min(batch_tokens, tokens) * per_token + 4 * slots * shape.vocab_size
    return ServingMemory(weights_bytes, kv_cache, compute)


def lora_buffer_bytes(shape: Dimensions, rank: int, adapters: int, devices: int = 1) -> int:
    """Memory on each of ``devices`` that vLLM keeps for so many adapters at a time, all of one rank, in 2 bytes each.

    Every projection has an A (rank x columns) and a B (rows x rank), whichever of them an adapter changes. Split, B
    follows the rows of q, k, v, gate and up, A the columns of o and down; the others are whole on every device
    (vllm/lora/layers, ``create_lora_weights``). Exact for dense models; an upper bound where vLLM knows some of these
    projections under another name, as in mixtures of experts, and changes none of them.
    """
    divided = 2 * shape.heads * shape.head_dim + 3 * shape.intermediate_size
    kv_rows = -(-shape.kv_heads // devices) * shape.head_dim  # Of fewer heads than devices each has one.
    elements = 7 * shape.hidden_size + 2 * kv_rows + -(-divided // devices)
    return 2 * adapters * rank * shape.layers * elements


def _layer(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    q_rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (q_rows, hidden),
        "attn_k.weight": (kv_rows, hidden),
        "attn_v.weight": (kv_rows, hidden),
        "attn_output.weight": (hidden, q_rows),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (ffn, hidden),
        "ffn_up.weight": (ffn, hidden),
        "ffn_down.weight": (hidden, ffn),
    }
    if shape.architecture == "qwen3":
        tensors |= {"attn_q_norm.weight": (shape.head_dim,), "attn_k_norm.weight": (shape.head_dim,)}
    if shape.attention_bias:
        tensors |= {"attn_q.bias": (q_rows,), "attn_k.bias": (kv_rows,), "attn_v.bias": (kv_rows,)}
    return tensors


def _tensor_sizes(shape: ModelShape, tensors: list[TensorShape], type: str) -> list[int]:  # noqa: A002
    return [
        prod(tensor.shape[:-1]) * _row_bytes(tensor_type(shape, tensor, type), tensor.shape[-1]) for tensor in tensors
    ]


def _row_bytes(kind: str, elements: int) -> int:
    if kind not in BLOCKS:
        raise UnknownTypeError(kind)
    block, size = BLOCKS[kind]
    return -(-elements // block) * size


def _fitting(kind: str, row: int) -> str:
    if row % BLOCKS[kind][0]:
        kind = FALLBACK.get(kind, kind)
        return "F16" if row % BLOCKS[kind][0] else kind
    return kind


def _preferred(shape: ModelShape, tensor: TensorShape, type: str, base: str) -> str:  # noqa: A002
    """The type by the tensor's part, before its row length is looked at."""
    part = tensor.name.rsplit(".", 2)[-2]
    if part == "output" or (part == "token_embd" and shape.tied_embeddings):
        return "Q8_0" if base == "Q8_0" or tensor.shape[-1] % BLOCKS[base][0] else "Q6_K"
    if part == "token_embd":
        return "Q4_K" if type in ("TQ1_0", "TQ2_0") else base
    if part == "attn_v":
        return _attn_v(shape, tensor.layer, type, base)
    if part == "ffn_down":
        return _ffn_down(shape.layers, tensor.layer, type, base)
    if part == "attn_output":
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(type, base)
    return base


def _attn_v(shape: ModelShape, layer: int, type: str, base: str) -> str:  # noqa: A002
    grouped = shape.heads // shape.kv_heads >= GQA_BOOST
    chosen = {
        "Q2_K": "Q4_K" if grouped else "Q3_K",
        "Q2_K_S": "Q4_K" if grouped else base,
        "Q3_K_M": "Q5_K" if layer < 2 else "Q4_K",  # noqa: PLR2004 (the first two, as upstream has it)
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if grouped else base,
        "IQ4_XS": "Q5_K" if grouped else base,
        "Q4_K_M": "Q6_K" if _more_bits(layer, shape.layers) else base,
        "Q5_K_M": "Q6_K" if _more_bits(layer, shape.layers) else base,
        "Q4_K_S": "Q5_K" if layer < 4 else base,  # noqa: PLR2004 (the first four, as upstream has it)
    }.get(type, base)
    large = shape.architecture == "llama" and shape.layers == LARGE_LLAMA_LAYERS and shape.heads != shape.kv_heads
    return "Q5_K" if large and chosen in ("Q3_K", "Q4_K") else chosen


def _ffn_down(layers: int, layer: int, type: str, base: str) -> str:  # noqa: A002
    first_eighth = layer < layers // 8
    return {
        "Q2_K": "Q3_K",
        "Q2_K_S": "Q4_K" if first_eighth else base,
        "Q3_K_M": "Q5_K" if layer < layers // 16 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "Q4_K_M": "Q6_K" if _more_bits(layer, layers) else base,
        "Q5_K_M": "Q6_K" if _more_bits(layer, layers) else base,
        "Q4_K_S": "Q5_K" if first_eighth else base,
        "IQ4_NL": "Q5_K" if first_eighth else base,
        "IQ4_XS": "Q5_K" if first_eighth else base,
    }.get(type, base)


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers and every third between (``use_more_bits``)."""
    # C truncates towards zero and Python's % floors, but the first test has already taken every layer below layers//8.
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2  # noqa: PLR2004


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
