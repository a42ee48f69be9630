"""The unquantized GGUF of a model: key-values, tensors and their bytes, streamed so that memory stays small."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from slm_pipelines.formats.config import ModelConfig, SourceType, gguf_name
from slm_pipelines.formats.safetensors import Tensor, read_chunks
from slm_pipelines.formats.tokenizer import Tokenizer

ALIGNMENT = 32
"""GGUF_DEFAULT_ALIGNMENT."""
FILE_TYPES: Mapping[SourceType, gguf.LlamaFileType] = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
}
SAMPLING: Mapping[str, str] = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "temperature": "temp",
    "repetition_penalty": "penalty_repeat",
}
"""Key of generation_config.json to the GGUFWriter method ``add_sampling_…``."""


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as safetensors has it."""
    type: SourceType
    source: tuple[str, Tensor] | bytes
    """File name and tensor; or the bytes themselves, where they are computed."""
    heads: int = 0
    """Above 0 the rows of each of so many heads are reordered."""

    @property
    def size_bytes(self) -> int:
        """Bytes without padding."""
        return math.prod(self.shape) * (2 if self.type in ("F16", "BF16") else 4)


def key_values(
    config: ModelConfig, tokenizer: Tokenizer, source_type: SourceType, parameters: int, files: Mapping[str, bytes]
) -> gguf.GGUFWriter:
    """A writer that holds every key-value and no tensor. Nothing in it depends on a path or a date."""
    writer = gguf.GGUFWriter(None, config.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    _add_sampling(writer, files)
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    _add_dimensions(writer, config)
    _add_rope(writer, config)
    writer.add_file_type(FILE_TYPES[source_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer)
    return writer


def metadata_bytes(writer: gguf.GGUFWriter) -> int:
    """Exact length of the key-value section, without writing it."""
    return sum(
        _value_bytes(key, GGUFValueType.STRING) + 4 + _value_bytes(value.value, value.type)
        for key, value in writer.kv_data[0].items()
    )


def plan_tensors(
    config: ModelConfig, tensors: Mapping[str, tuple[str, Tensor]], source_type: SourceType
) -> list[PlannedTensor]:
    """The output's tensors in upstream's order: rope factors, then file by file, by name."""
    plan = []
    if config.rope.kind == "llama3":
        plan.append(PlannedTensor("rope_freqs.weight", (config.head_dim // 2,), "F32", rope_factors(config).tobytes()))
    permuted = permuted_heads(config.architecture, config.heads, config.kv_heads)
    for name, (file_name, tensor) in tensors.items():
        kind: SourceType = source_type if len(tensor.shape) > 1 else "F32"
        heads = permuted.get(name.rsplit(".", 2)[-2], 0)
        plan.append(PlannedTensor(gguf_name(name), tensor.shape, kind, (file_name, tensor), heads))
    return plan


def permuted_heads(architecture: str, heads: int, kv_heads: int) -> Mapping[str, int]:
    """Projections whose rows llama.cpp has in another order, with the number of heads that each is divided into."""
    return {"q_proj": heads, "k_proj": kv_heads} if architecture == "llama" else {}


def total_bytes(metadata: int, plan: list[PlannedTensor]) -> int:
    """Exact size of the file."""
    infos = sum(8 + len(tensor.name) + 4 + 8 * len(tensor.shape) + 4 + 8 for tensor in plan)
    return _padded(24 + metadata + infos) + sum(_padded(tensor.size_bytes) for tensor in plan)


def write_header(writer: gguf.GGUFWriter, plan: list[PlannedTensor], target: Path) -> None:
    """Everything before the first tensor, padded."""
    for tensor in plan:
        dtype = np.dtype({"F32": "f4", "F16": "f2", "BF16": "u2"}[tensor.type])
        raw = gguf.GGMLQuantizationType[tensor.type]
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.size_bytes, raw)
    writer.write_header_to_file(target)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def write_model(
    writer: gguf.GGUFWriter, plan: list[PlannedTensor], paths: Mapping[str, Path], target: Path
) -> Iterator[tuple[int, str]]:
    """Write the file, yielding bytes written so far after each tensor and, last, the digest of the whole."""
    write_header(writer, plan, target)
    digest = hashlib.sha256(target.read_bytes())
    with target.open("ab") as output:
        for chunk in _padding(output.tell()):
            output.write(chunk)
            digest.update(chunk)
        for tensor in plan:
            for chunk in _tensor_bytes(tensor, paths):
                output.write(chunk)
                digest.update(chunk)
            yield output.tell(), ""
    yield target.stat().st_size, f"sha256:{digest.hexdigest()}"


def rope_factors(config: ModelConfig) -> NDArray[np.float32]:
    """Llama 3.1's frequency divisors (generate_extra_tensors in llama.cpp's conversion/llama.py), in float32."""
    given = config.rope.parameters
    factor, low, high = (given.get(key, default) for key, default in _LLAMA3_DEFAULTS)
    context = given["original_max_position_embeddings"]
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.float32(config.rope.theta) ** exponents
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / np.float32(factor) + smooth)
    short, long = wavelengths < context / high, wavelengths > context / low
    return np.where(short, np.float32(1), np.where(long, np.float32(factor), between)).astype(np.float32)


_LLAMA3_DEFAULTS = (("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0))


def _tensor_bytes(tensor: PlannedTensor, paths: Mapping[str, Path]) -> Iterator[bytes]:
    if isinstance(tensor.source, bytes):
        chunks: Iterator[bytes] = iter((tensor.source,))
    else:
        file_name, source = tensor.source
        chunks = _source_bytes(tensor, source, paths[file_name])
    yield from chunks
    yield from _padding(tensor.size_bytes)


def _source_bytes(tensor: PlannedTensor, source: Tensor, path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        if tensor.heads:
            yield from _permuted(tensor, source, file)
        else:
            for chunk in read_chunks(file, source):
                yield _widened(chunk, source.dtype) if len(tensor.shape) == 1 else chunk


def _permuted(tensor: PlannedTensor, source: Tensor, file: BinaryIO) -> Iterator[bytes]:
    """Rows of each head from two halves to interleaved pairs: how llama.cpp rotates them. One head at a time."""
    head_bytes = (source.end - source.begin) // tensor.heads
    half = source.shape[0] // tensor.heads // 2
    row_bytes = head_bytes // (2 * half)
    for chunk in read_chunks(file, source, head_bytes):
        rows = np.frombuffer(chunk, np.uint8).reshape(2, half, row_bytes)
        block = np.ascontiguousarray(rows.swapaxes(0, 1)).tobytes()
        yield _widened(block, source.dtype) if len(tensor.shape) == 1 else block


def _widened(data: bytes, dtype: str) -> bytes:
    """The numbers as float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes()
    return np.frombuffer(data, "<f2" if dtype == "F16" else "<f4").astype("<f4").tobytes()


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _padding(size: int) -> Iterator[bytes]:
    if missing := _padded(size) - size:
        yield bytes(missing)


def _add_sampling(writer: gguf.GGUFWriter, files: Mapping[str, bytes]) -> None:
    """Sampling defaults from generation_config.json. Upstream ignores a malformed one, and so do we."""
    try:
        given = json.loads(files.get("generation_config.json", b"{}"))
    except (ValueError, RecursionError):
        return
    if not isinstance(given, dict):
        return
    for key, method in SAMPLING.items():
        value = given.get(key)
        kinds = int if method == "top_k" else int | float
        if isinstance(value, kinds) and not isinstance(value, bool) and -(1 << 31) < value < 1 << 31:
            getattr(writer, f"add_sampling_{method}")(value)


def _add_dimensions(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if config.architecture == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)


def _add_rope(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    given = config.rope.parameters
    writer.add_rope_freq_base(config.rope.theta)
    if config.rope.kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(config.rope.kind))
        writer.add_rope_scaling_factor(given["factor"])
    if config.rope.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(given["original_max_position_embeddings"]))
        optional: Mapping[str, Callable[[float], None]] = {
            "extrapolation_factor": writer.add_rope_scaling_yarn_ext_factor,
            "attention_factor": writer.add_rope_scaling_yarn_attn_factor,
            "beta_fast": writer.add_rope_scaling_yarn_beta_fast,
            "beta_slow": writer.add_rope_scaling_yarn_beta_slow,
        }
        for key in sorted(optional.keys() & given.keys()):
            optional[key](given[key])


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    if tokenizer.add_space_prefix is not None:
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for kind, token in tokenizer.special_ids.items():
        getattr(writer, f"add_{kind}_token_id")(token)
    for kind, added in tokenizer.add_special.items():
        getattr(writer, f"add_add_{kind}_token")(added)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


_SCALAR_BYTES: Mapping[GGUFValueType, int] = {
    GGUFValueType.UINT32: 4, GGUFValueType.INT32: 4, GGUFValueType.FLOAT32: 4, GGUFValueType.BOOL: 1,
}  # fmt: skip


def _value_bytes(value: Any, kind: GGUFValueType) -> int:
    """Encoded length (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""
    if kind is GGUFValueType.STRING:
        return 8 + len(value.encode() if isinstance(value, str) else value)
    if kind is GGUFValueType.ARRAY:
        element = GGUFValueType.get_type(value[0])
        return 4 + 8 + sum(_value_bytes(item, element) for item in value)
    return _SCALAR_BYTES[kind]
