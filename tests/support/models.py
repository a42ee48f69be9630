"""Random-weight models in Hugging Face layout, deterministic and streamed, of any size."""

import json
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from tests.support.pieces import write_pieces

Family = Literal["llama", "qwen3"]
Dtype = Literal["bf16", "f16", "f32"]
TokenizerKind = Literal["bytes", "pieces", "json_pieces"]
"""Byte-level BPE; SentencePiece; SentencePiece with tokenizer.json alone."""
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")
SPECIAL_TOKENS = ("<|begin_of_text|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROPE_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROPE_LINEAR = {"rope_type": "linear", "factor": 4.0}
ROPE_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "attn_factor": 1.5,
             "beta_fast": 16.0, "beta_slow": 2.0}  # fmt: skip
ROPE_YARN_BARE = {"rope_type": "yarn", "factor": 2.0}
SMALL: dict[str, Any] = {"hidden": 64, "heads": 1, "kv_heads": 1, "intermediate": 64, "layers": 1}
CONVERT_CASES: dict[str, dict[str, Any]] = {
    "llama_tied_bf16": {"tied": True},
    "llama_rope_sharded_bf16": {"rope_llama3": True, "shards": 3, "head_dim": 128, "seed": 1},
    "llama_f16": {"dtype": "f16", "heads": 4, "kv_heads": 4, "seed": 2},
    "llama_f32": {"dtype": "f32", "layers": 1, "seed": 3},
    "llama_bias_bf16": {"attention_bias": True, "layers": 1, "seed": 6},
    "qwen3_tied_bf16": {"family": "qwen3", "tied": True, "seed": 4},
    "qwen3_f16": {"family": "qwen3", "dtype": "f16", "head_dim": 128, "layers": 1, "seed": 5},
    "llama_pieces_f16": {"dtype": "f16", "tokenizer": "pieces", "vocab": 640, **SMALL},
    "llama_pieces_code_f16": {
        "dtype": "f16",
        "tokenizer": "pieces",
        "vocab": 32016,
        "options": {"add_prefix_space": False},
        **SMALL,
    },
    "llama_json_pieces_f16": {"dtype": "f16", "tokenizer": "json_pieces", "vocab": 640, **SMALL},
    "qwen3_pieces_f16": {"family": "qwen3", "dtype": "f16", "tokenizer": "pieces", "vocab": 640, **SMALL},
    "llama_no_bos_f16": {
        "dtype": "f16",
        "vocab": 49152,
        "options": {"add_prefix_space": False, "add_bos_token": False},
        **SMALL,
    },
    "llama_linear_f16": {"dtype": "f16", "config": {"rope_scaling": ROPE_LINEAR}, **SMALL},
    "llama_yarn_f16": {
        "dtype": "f16",
        "config": {"rope_scaling": ROPE_YARN, "original_max_position_embeddings": 1024},
        **SMALL,
    },
    "qwen3_yarn_f16": {"family": "qwen3", "dtype": "f16", "config": {"rope_scaling": ROPE_YARN}, **SMALL},
    "llama_yarn_bare_f16": {
        "dtype": "f16",
        "config": {"rope_scaling": ROPE_YARN_BARE, "original_max_position_embeddings": 1024},
        **SMALL,
    },
}
"""Arguments of ``write_model`` for each golden file in tests/golden/convert."""
SMOLLM2_135M: dict[str, Any] = {
    "hidden": 576, "layers": 30, "heads": 9, "kv_heads": 3, "intermediate": 1536, "vocab": 49_152, "tied": True,
}  # fmt: skip
"""Its shape, of its published config.json, as arguments of ``write_model``."""
BLOCK_ELEMENTS = 1 << 20
"""Random numbers drawn per tensor; larger tensors repeat them, so that time and memory stay small."""


def write_model(
    folder: Path,
    family: Family = "llama",
    *,
    hidden: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    intermediate: int = 768,
    vocab: int = 512,
    tied: bool = False,
    dtype: Dtype = "bf16",
    shards: int = 1,
    seed: int = 0,
    rope_llama3: bool = False,
    attention_bias: bool = False,
    tokenizer: TokenizerKind = "bytes",
    config: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write config.json, safetensors, tokenizer and chat template into ``folder``; returns it.

    ``config`` and ``options`` are changes to config.json and tokenizer_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[family]],
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": 131072 if rope_llama3 else 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0 if rope_llama3 else 10000.0,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "attention_bias": attention_bias,
        "bos_token_id": special_ids(family, vocab)[SPECIAL_TOKENS[0]],
        "eos_token_id": special_ids(family, vocab)[SPECIAL_TOKENS[2]],
        "torch_dtype": {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype],
    }
    if rope_llama3:
        document["rope_scaling"] = ROPE_LLAMA3
    if tokenizer != "bytes":
        document |= {"bos_token_id": 1, "eos_token_id": 2}
    document |= config or {}
    _write_json(folder / "config.json", document)
    _write_json(folder / "generation_config.json", {"temperature": 0.6, "top_k": 20, "top_p": 0.95})
    if tokenizer == "bytes":
        write_tokenizer(folder, family, vocab)
    else:
        write_pieces(folder, vocab, model=tokenizer == "pieces")
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    chosen = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write_json(folder / "tokenizer_config.json", chosen | dict(options or {}))
    _write_weights(folder, _shapes(document), dtype, shards, seed)
    return folder


def special_ids(family: Family, vocab: int) -> dict[str, int]:
    """Special token to id: the last ids, or for Qwen the last before eight unused ones, as in the real vocabulary."""
    first = vocab - len(SPECIAL_TOKENS) - (8 if family == "qwen3" else 0)
    return {text: first + at for at, text in enumerate(SPECIAL_TOKENS)}


def write_tokenizer(folder: Path, family: Family, vocab: int) -> None:
    """A byte-level BPE whose ids fill ``vocab``."""
    ids = special_ids(family, vocab)
    tokens = list(_byte_letters().values())
    merges = list(islice(_merges(), min(ids.values()) - len(tokens)))
    tokens += [left + right for left, right in merges]
    added = [
        {"id": index, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for text, index in ids.items()
    ]  # fmt: skip
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(LLAMA3_SPLIT if family == "llama" else QWEN2_SPLIT),
        "post_processor": _post_processor(family, ids),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": family == "llama",
            "vocab": {text: index for index, text in enumerate(tokens)}, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip
    _write_json(folder / "tokenizer.json", document)
    bos = {"bos_token": SPECIAL_TOKENS[0]} if family == "llama" else {"add_bos_token": False}
    options = {"eos_token": SPECIAL_TOKENS[2], "pad_token": SPECIAL_TOKENS[2], "model_max_length": 2048}
    _write_json(folder / "tokenizer_config.json", bos | options | {"tokenizer_class": "PreTrainedTokenizerFast"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a small file from name → (dtype, shape, bytes)."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    path.write_bytes(_encoded(header) + b"".join(data for _, _, data in tensors.values()))


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (q, hidden),
            prefix + "self_attn.k_proj.weight": (kv, hidden),
            prefix + "self_attn.v_proj.weight": (kv, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, q),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "mlp.gate_proj.weight": (ffn, hidden),
            prefix + "mlp.up_proj.weight": (ffn, hidden),
            prefix + "mlp.down_proj.weight": (hidden, ffn),
        }
        if config["attention_bias"]:
            shapes |= {
                f"{prefix}self_attn.{name}_proj.bias": (rows,) for name, rows in zip("qkv", (q, kv, kv), strict=True)
            }
        if config["model_type"] == "qwen3":
            shapes |= {f"{prefix}self_attn.{name}_norm.weight": (config["head_dim"],) for name in "qk"}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _write_weights(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: Dtype, shards: int, seed: int) -> None:
    names = list(shapes)
    per_shard = -(-len(names) // shards)
    places: dict[str, str] = {}
    rng = np.random.default_rng(seed)
    for shard in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: shapes[key] for key in names[shard * per_shard : (shard + 1) * per_shard]}
        places |= dict.fromkeys(part, name)
        _write_shard(folder / name, part, dtype, rng)
    if shards > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], dtype: Dtype, rng: np.random.Generator) -> None:
    width = 4 if dtype == "f32" else 2
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + prod(shape) * width
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    with path.open("wb") as file:
        file.write(_encoded(header))
        for shape in shapes.values():
            _write_values(file, shape, dtype, rng)


def _write_values(file: BinaryIO, shape: tuple[int, ...], dtype: Dtype, rng: np.random.Generator) -> None:
    count = prod(shape)
    mean, spread = (1.0, 0.1) if len(shape) == 1 else (0.0, shape[-1] ** -0.5)
    values = rng.standard_normal(min(count, BLOCK_ELEMENTS), dtype=np.float32) * np.float32(spread) + np.float32(mean)
    block = _encode_values(values, dtype)
    width = len(block) // len(values)
    left = count * width
    while left:
        file.write(block[:left])
        left -= min(left, len(block))


def _encode_values(values: NDArray[np.float32], dtype: Dtype) -> bytes:
    if dtype == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype(np.float16 if dtype == "f16" else np.float32).tobytes()


def _encoded(header: dict[str, Any]) -> bytes:
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def _merges() -> Iterator[tuple[str, str]]:
    """Endless distinct merges over lower-case words with and without a space before."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    queue = ["\u0120", *letters]
    for left in queue:
        for right in letters:
            queue.append(left + right)
            yield left, right


def _pre_tokenizer(split: str) -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }


def _post_processor(family: Family, ids: dict[str, int]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    if family == "qwen3":
        return byte_level
    bos = SPECIAL_TOKENS[0]
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": bos, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}},
    }
    return {"type": "Sequence", "processors": [byte_level, template]}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
