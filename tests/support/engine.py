"""A real llama.cpp and a tiny real model for tests: random weights, byte-level tokenizer, about 1 MB."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from slm_pipelines.store import Store, StoredManifest
from slm_pipelines.tools.llama_cpp import Engine, locate

LAYERS = 2
HEADS = 4


@pytest.fixture(scope="session")
def engine() -> Engine:
    """llama.cpp as a step finds it; the first use on a machine installs it."""
    return locate()


def byte_tokens() -> list[str]:
    """The 256 printable stand-ins of GPT-2's byte-level alphabet, in byte order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def add_tokenizer(writer: gguf.GGUFWriter) -> int:
    """A byte-level BPE with one merge; returns the vocabulary size."""
    tokens = [*byte_tokens(), "Ġt", "<|end|>"]
    types = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(value=False)
    return len(tokens)


def weights(vocab: int, hidden: int) -> dict[str, tuple[int, int]]:
    """Name to (rows, row length) of every matrix."""
    matrices = {"token_embd": (vocab, hidden), "output": (vocab, hidden)}
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrices[f"blk.{layer}.{name}"] = (hidden, hidden)
        matrices[f"blk.{layer}.ffn_gate"] = (2 * hidden, hidden)
        matrices[f"blk.{layer}.ffn_up"] = (2 * hidden, hidden)
        matrices[f"blk.{layer}.ffn_down"] = (hidden, 2 * hidden)
    return matrices


def write_model(path: Path, hidden: int = 256, seed: int = 0, parts: int = 1) -> Path:
    """Write an F16 llama GGUF whose predictions are peaked enough for quantization to show.

    With ``parts`` it says that it is the first of so many.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    vocab = add_tokenizer(writer)
    writer.add_name("random")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(hidden // HEADS)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if parts > 1:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", parts)
    for name, shape in weights(vocab, hidden).items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.08, shape).astype(np.float16))
    norms = ["output_norm", *(f"blk.{layer}.{kind}_norm" for layer in range(LAYERS) for kind in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def store_model(store: Store, folder: Path, hidden: int = 256) -> str:
    """Put a fresh model into the store; returns the digest of its manifest."""
    blob = store.add_file(write_model(folder / "made.gguf", hidden), "model-F16.gguf")
    return store.add_manifest(StoredManifest("gguf", (blob,), {"type": "F16"}))
