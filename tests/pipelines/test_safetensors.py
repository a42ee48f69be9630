"""Headers that lie, and one that does not."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput
from slm_pipelines.formats import safetensors
from slm_pipelines.formats.safetensors import Header, Tensor, header_end, parse_header, read_chunks, read_header
from tests.support.models import write_model

GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [4], "data_offsets": [12, 28]},
}


def encode(header: object, data_bytes: int = 28) -> tuple[bytes, int]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + data_bytes


def changed(name: str, **fields: object) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | fields}


def test_a_sound_header_gives_every_tensor_its_place_in_the_file() -> None:
    data, size = encode(GOOD)
    header = parse_header("m.safetensors", data, size)
    assert list(header.tensors) == ["a", "b"]
    assert header.tensors["b"] == Tensor("b", "F32", (4,), len(data) + 12, len(data) + 28)


def test_the_first_eight_bytes_say_how_much_to_fetch() -> None:
    data, size = encode(GOOD)
    assert header_end("m.safetensors", data[:8], size) == len(data)


FAULTS = {
    "empty": (b"", 0, "m has 0 bytes, too few for a header"),
    "huge": (struct.pack("<Q", 100_000_001), 10**9, "m claims a header of 100000001 bytes, but the headers of one"),
    "beyond": (struct.pack("<Q", 100), 50, "m is truncated: its header needs 108 bytes, it has 50"),
    "not json": (*encode(b"{nope"), "m has a header that is not valid JSON"),
    "not utf-8": (*encode(b"\xff\xfe{}"), "m has a header that is not valid JSON"),
    "deep": (*encode(b'{"a":' + b"[" * 200_000), "m has a header that is not valid JSON"),
    "list": (*encode([1]), "m has a header that is not a JSON object"),
    "twice": (*encode(b'{"a":1,"a":2}'), "m has a header that is not valid JSON: key 'a' appears twice"),
    "no tensors": (*encode({}), "m holds no tensors"),
    "no shape": (*encode({"a": {"dtype": "F32"}}), "m describes tensor a without exactly dtype, shape"),
    "negative": (*encode(changed("a", shape=[-2, -3])), "m gives tensor a a shape or offsets that are not whole"),
    "fraction": (*encode(changed("a", shape=[2.0, 3])), "m gives tensor a a shape or offsets that are not whole"),
    "boolean": (*encode(changed("b", shape=[True])), "m gives tensor b a shape or offsets that are not whole"),
    "size": (*encode(changed("a", shape=[2, 4])), "m gives tensor a 12 bytes where BF16 [2, 4] needs 16"),
    "overlap": (*encode(changed("b", data_offsets=[8, 24])), "inconsistent offsets: tensor b overlaps a"),
    "gap": (*encode(changed("b", data_offsets=[16, 32]), 32), "inconsistent offsets: tensor b leaves a gap after a"),
    "first gap": (*encode({"b": GOOD["b"]}), "m leaves a gap before its first tensor b"),
    "short": (*encode(GOOD, 27), "m is truncated: tensor b ends at"),
    "long": (*encode(GOOD, 29), "m has bytes that belong to no tensor: tensor b ends at"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(fault: str) -> None:
    data, size, message = FAULTS[fault]
    with pytest.raises(BadInput) as caught:
        parse_header("m", data, size)
    assert caught.value.reason is Reason.INVALID_SAFETENSORS
    assert message in caught.value.message
    assert caught.value.message.endswith("fetch it again or ask its publisher to repair it.")


def test_a_header_of_too_many_values_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_pipelines.formats.safetensors.json.loads", lambda *_, **__: pytest.fail("it was parsed"))
    for content in (b"[" + b"[]," * 1_400_000 + b"[]]", b'{"a":' + b"1," * 1_400_000 + b"}", b"[" * 1_400_000):
        with pytest.raises(BadInput) as caught:
            parse_header("m", *encode(content))
        assert caught.value.reason is Reason.INVALID_SAFETENSORS
        assert "m describes more than the 131072 tensors that the files of one model may hold" in caught.value.message


def test_a_mixture_of_experts_that_gptq_has_quantized_is_read() -> None:
    """As many tensors as of Qwen3-30B-A3B: four for each of three matrices of 128 experts in 48 layers."""
    entries = {
        f"model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj.{part}": {"dtype": "F16", "shape": [1, 1]}
        for layer in range(48)
        for expert in range(128)
        for matrix in ("gate", "up", "down")
        for part in ("qweight", "qzeros", "scales", "g_idx")
    }
    for index, entry in enumerate(entries.values()):
        entry["data_offsets"] = [2 * index, 2 * index + 2]
    data, size = encode(entries, 2 * len(entries))
    assert len(parse_header("m", data, size).tensors) == 73_728


def test_the_headers_of_all_shards_share_one_limit() -> None:
    asked = []

    def read_one(name: str, allowed_bytes: int) -> Header:
        asked.append(allowed_bytes)
        data = struct.pack("<Q", 6 << 20)
        return Header(name, {}, header_end(name, data, 1 << 40, allowed_bytes))

    with pytest.raises(BadInput) as caught:
        safetensors.collect_headers(["1", "2", "3"], read_one)
    assert asked == [16 << 20, (10 << 20) - 8, (4 << 20) - 16]
    assert caught.value.reason is Reason.INVALID_SAFETENSORS
    assert "3 claims a header of 6291456 bytes, but the headers of one model may have 16777216" in caught.value.message


def test_the_tensors_of_all_shards_share_one_limit() -> None:
    many = Header("many", {str(index): Tensor("", "F32", (0,), 0, 0) for index in range(70_000)})
    with pytest.raises(BadInput) as caught:
        safetensors.collect_headers(["1", "2", "3"], lambda _name, _bytes: many)
    assert caught.value.reason is Reason.INVALID_SAFETENSORS
    assert "2 describes more than the 131072 tensors" in caught.value.message


def test_an_unknown_number_format_is_named_with_the_known_ones() -> None:
    with pytest.raises(BadInput) as caught:
        parse_header("m", *encode(changed("a", dtype="Q4")))
    assert caught.value.reason is Reason.UNSUPPORTED_DTYPE
    assert caught.value.message.startswith("m stores tensor a as 'Q4', which is not a known number format (BOOL, U8")


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_either_parsed_or_refused_with_a_sentence(data: bytes, size: int) -> None:
    try:
        header = parse_header("m", data, size)
    except BadInput as error:
        assert error.message.startswith("m ")  # noqa: PT017 (either outcome is right)
    else:
        assert header.tensors


def test_a_file_is_read_in_pieces_of_bounded_size(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    tensor = read_header(path, path.name).tensors["lm_head.weight"]
    with path.open("rb") as file:
        chunks = list(read_chunks(file, tensor, 100_000))
    assert [len(chunk) for chunk in chunks] == [100_000, 100_000, 62_144]
    assert b"".join(chunks) == path.read_bytes()[tensor.begin : tensor.end]


def header(name: str, *tensors: str) -> Header:
    return Header(name, {tensor: Tensor(tensor, "F32", (0,), 0, 0) for tensor in tensors})


def test_a_tensor_in_two_shards_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        safetensors.merge({"1": header("1", "a"), "2": header("2", "a")})
    assert caught.value.reason is Reason.INVALID_SAFETENSORS
    assert "2 holds tensor a that 1 holds too" in caught.value.message


def test_an_index_that_names_an_absent_tensor_is_refused() -> None:
    index = json.dumps({"weight_map": {"a": "1", "b": "1"}}).encode()
    with pytest.raises(BadInput) as caught:
        safetensors.merge({"1": header("1", "a")}, index)
    assert caught.value.reason is Reason.INVALID_SAFETENSORS
    assert "model.safetensors.index.json places tensor b in 1, which does not hold it" in caught.value.message


def test_weight_files_are_those_of_the_index_or_those_named_model() -> None:
    names = ["model.safetensors", "extra.safetensors", "sub/model.safetensors", "config.json"]
    assert safetensors.weight_files(names, None) == ["model.safetensors"]
    assert safetensors.weight_files(["extra.safetensors"], None) == ["extra.safetensors"]
    assert safetensors.weight_files(names, b'{"weight_map": {"t": "part-2", "u": "part-1"}}') == ["part-1", "part-2"]
