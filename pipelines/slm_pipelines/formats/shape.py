"""What a model is, from its small files and the headers of its weights alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from gguf import GGUFWriter

from slm_contract.results import ModelShape
from slm_pipelines.formats import gguf_write, safetensors
from slm_pipelines.formats.config import IGNORED_SUFFIXES, ModelConfig, SourceType, check_weights, parse_config
from slm_pipelines.formats.safetensors import Header, Tensor
from slm_pipelines.formats.tokenizer import Tokenizer, load_tokenizer, parse_tokenizer

SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    safetensors.INDEX_NAME,
)
"""Every file besides the weights that conversion reads; anything else changes nothing."""


@dataclass(frozen=True)
class Checkpoint:
    """A checked model: config, tokenizer and weights agree."""

    config: ModelConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, tuple[str, Tensor]]
    """Hugging Face name to file name and tensor."""
    source_type: SourceType
    parameters: int


def check_model(files: Mapping[str, bytes], headers: Mapping[str, Header]) -> Checkpoint:
    """Parse and cross-check everything; raises BadInput with the first fault found.

    ``files`` are the small files by name (those of ``SMALL_FILES`` that exist), ``headers`` the weight files' by name.
    """
    config = parse_config(files)
    merged = safetensors.merge(headers, files.get(safetensors.INDEX_NAME))
    tensors = {name: where for name, where in merged.items() if not name.endswith(IGNORED_SUFFIXES)}
    source_type = check_weights(config, {name: tensor for name, (_, tensor) in tensors.items()})
    tokenizer = parse_tokenizer(files, config)
    parameters = sum(prod(tensor.shape) for _, tensor in tensors.values())
    return Checkpoint(config, tokenizer, tensors, source_type, parameters)


def shape_of(checkpoint: Checkpoint, metadata_bytes: int) -> ModelShape:
    """The dimensions that sizes and memory are computed from."""
    config = checkpoint.config
    return ModelShape(
        architecture=config.architecture,
        source_type=checkpoint.source_type,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        tied_embeddings="lm_head.weight" not in checkpoint.tensors,
        rope_factors=config.rope.kind == "llama3",
        attention_bias="model.layers.0.self_attn.q_proj.bias" in checkpoint.tensors,
        metadata_bytes=metadata_bytes,
    )


def describe(files: Mapping[str, bytes], headers: Mapping[str, Header]) -> ModelShape:
    """The shape of a model, before a weight is fetched; raises BadInput as ``check_model`` does."""
    checkpoint = check_model(files, headers)
    return shape_of(checkpoint, gguf_write.metadata_bytes(key_values(checkpoint, files)))


def key_values(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> GGUFWriter:
    """The key-values of the converted GGUF."""
    # The rope factors are stored as a tensor, so upstream counts them in the size label.
    extra = checkpoint.config.head_dim // 2 if checkpoint.config.rope.kind == "llama3" else 0
    parameters = checkpoint.parameters + extra
    return gguf_write.key_values(checkpoint.config, checkpoint.tokenizer, checkpoint.source_type, parameters, files)


def parameter_count(headers: Mapping[str, Header]) -> int:
    """Stored parameters over all weight files."""
    tensors = (tensor for header in headers.values() for tensor in header.tensors.values())
    return sum(prod(tensor.shape) for tensor in tensors if not tensor.name.endswith(IGNORED_SUFFIXES))


def check_loadable(files: Mapping[str, bytes], headers: Mapping[str, Header]) -> None:
    """What must hold of any model, whoever loads it; raises BadInput.

    Its tensors are where the index says, each once, and there is a tokenizer that can be read.
    """
    safetensors.merge(headers, files.get(safetensors.INDEX_NAME))
    load_tokenizer(files)
