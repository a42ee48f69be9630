"""Sizes from a shape alone, against the figures llama.cpp publishes for Llama 3.1 8B."""

import pytest

from slm_contract.results import ModelShape
from slm_operator.core.sizes import (
    BLOCKS,
    QUANT_TYPES,
    UnknownTypeError,
    bits_per_weight,
    gguf_bytes,
    list_tensors,
    parameter_class,
    parameter_count,
    serving_bytes,
    tensor_type,
    weight_bytes,
)

LLAMA_31_8B = ModelShape(
    architecture="llama",
    source_type="F16",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    tied_embeddings=False,
    rope_factors=True,
    metadata_bytes=7_000_000,
)
SMALL = LLAMA_31_8B.model_copy(
    update={"vocab_size": 512, "hidden_size": 256, "intermediate_size": 768, "layers": 2, "heads": 4, "kv_heads": 2}
    | {"head_dim": 64, "rope_factors": False, "metadata_bytes": 1001}
)

# tools/quantize/README.md of llama.cpp: bits per weight and GiB of the weights.
PUBLISHED = [
    ("Q2_K_S", 2.9697, 2.78),
    ("Q2_K", 3.1593, 2.95),
    ("Q3_K_S", 3.6429, 3.41),
    ("Q3_K_L", 4.2979, 4.02),
    ("Q4_K_S", 4.6672, 4.36),
    ("Q4_K_M", 4.8944, 4.58),
    ("Q5_K_S", 5.5704, 5.21),
    ("Q5_K_M", 5.7036, 5.33),
    ("Q6_K", 6.5633, 6.14),
    ("Q8_0", 8.5008, 7.95),
    ("F16", 16.0005, 14.96),
    ("IQ4_XS", 4.4597, 4.17),
    ("IQ4_NL", 4.6818, 4.38),
]


@pytest.mark.parametrize(("name", "bits", "gib"), PUBLISHED)
def test_llama_31_8b_has_the_published_bits_per_weight_and_size(name: str, bits: float, gib: float) -> None:
    assert round(bits_per_weight(LLAMA_31_8B, name), 4) == bits
    assert round(weight_bytes(LLAMA_31_8B, name) / 2**30, 2) == gib


def test_llama_31_8b_has_the_published_number_of_parameters() -> None:
    assert parameter_count(LLAMA_31_8B) == 8_030_261_312


def test_a_file_is_header_and_tensors_each_padded_to_32_bytes() -> None:
    infos = sum(8 + len(tensor.name) + 16 + 8 * len(tensor.shape) for tensor in list_tensors(SMALL))
    header = -(-(24 + 1001 + infos) // 32) * 32
    assert gguf_bytes(SMALL, "F16") == header + weight_bytes(SMALL, "F16")


@pytest.mark.parametrize("name", QUANT_TYPES)
def test_every_type_gives_every_tensor_a_type_its_rows_divide_into(name: str) -> None:
    for tensor in list_tensors(SMALL):
        assert tensor.shape[-1] % BLOCKS[tensor_type(SMALL, tensor, name)][0] == 0


def test_rows_that_no_block_of_256_divides_fall_back_as_in_llama_cpp() -> None:
    odd = SMALL.model_copy(update={"hidden_size": 288, "intermediate_size": 800})
    chosen = {tensor.name: tensor_type(odd, tensor, "Q4_K_S") for tensor in list_tensors(odd)}
    assert chosen["blk.0.attn_q.weight"] == "Q5_0"
    assert chosen["blk.0.attn_v.weight"] == "Q5_1"
    assert chosen["output.weight"] == "Q8_0"


def test_rows_that_no_block_divides_stay_f16() -> None:
    odd = SMALL.model_copy(update={"hidden_size": 272})
    chosen = {tensor.name: tensor_type(odd, tensor, "Q4_0") for tensor in list_tensors(odd)}
    assert chosen["blk.0.attn_q.weight"] == "F16"


def test_tied_embeddings_are_kept_at_the_precision_of_an_output() -> None:
    tied = SMALL.model_copy(update={"tied_embeddings": True})
    chosen = {tensor.name: tensor_type(tied, tensor, "Q4_0") for tensor in list_tensors(tied)}
    assert chosen["token_embd.weight"] == "Q6_K"
    assert "output.weight" not in chosen


def test_an_unknown_cache_type_is_refused() -> None:
    with pytest.raises(UnknownTypeError, match=r"^Q9_X is not a known quantization type"):
        serving_bytes(SMALL, 0, context=256, slots=1, kv_type="q9_x")


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownTypeError) as caught:
        gguf_bytes(SMALL, "Q9_X")
    assert str(caught.value).startswith("Q9_X is not a known quantization type: use one of F32, F16, BF16, Q4_0")


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (99_999_999, "Nano"),
        (100_000_000, "Micro"),
        (1_499_999_999, "Micro"),
        (1_500_000_000, "Small"),
        (13_999_999_999, "Small"),
        (14_000_000_000, "Medium"),
        (30_000_000_000, "Medium"),
        (30_000_000_001, "Large"),
    ],
)
def test_parameter_classes_begin_where_they_are_said_to(parameters: int, name: str) -> None:
    assert parameter_class(parameters) == name


def test_the_kv_cache_of_llama_31_8b_takes_a_gibibyte_per_8192_tokens() -> None:
    memory = serving_bytes(LLAMA_31_8B, 100, context=2048, slots=4)
    assert memory.kv_cache == 2**30
    assert memory.weights == 100
    assert memory.total == memory.weights + memory.kv_cache + memory.compute


def test_qwen3_06b_needs_the_memory_llama_server_reports() -> None:
    shape = ModelShape(
        architecture="qwen3",
        source_type="BF16",
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        tied_embeddings=True,
        metadata_bytes=6_000_000,
    )
    memory = serving_bytes(shape, 0, context=2048, slots=4)
    output_buffer = 4 * 4 * 151936
    assert memory.kv_cache == 896 << 20
    assert (memory.compute - output_buffer) / 2**20 == pytest.approx(30.02, abs=0.03)


def test_a_slot_takes_whole_steps_of_256_tokens() -> None:
    assert serving_bytes(SMALL, 0, context=1, slots=2) == serving_bytes(SMALL, 0, context=256, slots=2)


def test_a_quantized_kv_cache_is_smaller_by_its_block() -> None:
    half = serving_bytes(LLAMA_31_8B, 0, context=2048, slots=4, kv_type="q8_0").kv_cache
    assert half * 32 == 2**30 // 2 * 34


def test_bits_per_weight_of_a_type_follow_from_its_block() -> None:
    assert (QUANT_TYPES["Q4_K_M"].bits_per_weight, QUANT_TYPES["Q4_K_M"].block_size) == (4.5, 256)
    assert QUANT_TYPES["Q8_0"].bits_per_weight == 8.5
