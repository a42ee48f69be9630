"""The trained model as a Hugging Face repository folder."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dev.demo.corpus import CHAT_TEMPLATE, END, TURN_END
from dev.demo.llama import EMBED, HEAD, SHAPE, Array, Weights, layer_name

README = """---
license: psf-2.0
language: en
pipeline_tag: text-generation
---
# tiny-docs

A Llama of {parameters:,} parameters, trained in seconds with numpy on documentation that ships with Python. It
demonstrates conversion, quantization and measurement; it recites a part of Python's manual and knows nothing else.

Perplexity on that part: {perplexity:.1f} (of single-token frequencies: {unigram:.1f}).

The training text is copyright Python Software Foundation and used under the Python Software Foundation License
Version 2.
"""


def write_repository(folder: Path, weights: Weights, tokenizer: Tokenizer, measured: dict[str, float]) -> None:
    """Write every file that a loader of Llama checkpoints expects."""
    tensors = checkpoint(weights)
    (folder / "model.safetensors").write_bytes(encode_safetensors(tensors))
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    end, turn_end = vocabulary[END], vocabulary[TURN_END]
    _write_json(folder / "config.json", _config(end, turn_end))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    generation = {"bos_token_id": end, "eos_token_id": [turn_end, end], "pad_token_id": end, "do_sample": False}
    _write_json(folder / "generation_config.json", generation)
    parameters = sum(array.size for array in tensors.values())
    (folder / "README.md").write_text(README.format(parameters=parameters, **measured), encoding="utf-8")


def checkpoint(weights: Weights) -> Weights:
    """Every tensor of the architecture in its usual order, with the norms' gains, which are all one."""
    gain = np.ones(SHAPE.hidden, np.float32)
    tensors = {EMBED: weights[EMBED]}
    for layer in range(SHAPE.layers):
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = gain
        tensors |= {name: weights[name] for name in (layer_name(layer, part) for part in "qkvo")}
        tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = gain
        tensors |= {name: weights[name] for name in (layer_name(layer, part) for part in ("gate", "up", "down"))}
    return tensors | {"model.norm.weight": gain, HEAD: weights[HEAD]}


def encode_bfloat16(values: Array) -> bytes:
    """The upper half of each float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def encode_safetensors(tensors: Weights) -> bytes:
    """Header length, header (padded to eight bytes), then the values one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, offset = [], 0
    for name, array in tensors.items():
        data = encode_bfloat16(array)
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [offset, offset + len(data)]}
        parts.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _config(end: int, turn_end: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": SHAPE.vocab,
        "hidden_size": SHAPE.hidden,
        "intermediate_size": SHAPE.feed_forward,
        "num_hidden_layers": SHAPE.layers,
        "num_attention_heads": SHAPE.heads,
        "num_key_value_heads": SHAPE.heads,
        "head_dim": SHAPE.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": SHAPE.context,
        "rms_norm_eps": SHAPE.epsilon,
        "rope_theta": SHAPE.rope_base,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": end,
        "eos_token_id": turn_end,
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": TURN_END,
        "pad_token": END,
        "add_bos_token": False,
        "model_max_length": SHAPE.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
