"""Conversion against llama.cpp's own converter (golden files), and everything a model can be refused for."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, Outcome
from slm_contract.specs import ConvertSpec
from slm_operator.core.sizes import gguf_bytes
from slm_pipelines import formats
from slm_pipelines.errors import BadInput, StepFailure
from slm_pipelines.formats import safetensors
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import convert
from slm_pipelines.store import Store, hash_file
from slm_pipelines.tools import llama_cpp
from tests.support.gguf_digest import digest_gguf
from tests.support.models import CONVERT_CASES, QWEN2_SPLIT, write_model
from tests.support.stored import store_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "convert"
UPSTREAM_ONLY = {
    "general.name",  # Upstream takes it from the folder's name; our bytes depend on no path.
    "tokenizer.ggml.add_sep_token",  # False; only for pairs of texts, which no decoder is given.
    "GGUF.kv_count",  # The number of the keys.
}
ON_PURPOSE = {
    # Upstream scores every token alike, which makes llama.cpp split text otherwise than the original does.
    "llama_json_pieces_f16": {"tokenizer.ggml.scores"},
}
SIZED_TYPES = [
    "F16", "BF16", "F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S",
    "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
]  # fmt: skip
SIZED_MODELS: dict[str, dict[str, Any]] = {
    "llama": {"layers": 9},
    "llama_rope_factors": {"tied": True, "rope_llama3": True, "layers": 3, "heads": 8, "kv_heads": 1},
    "qwen3_like_0.6b": {
        "family": "qwen3", "tied": True, "hidden": 256, "layers": 28, "heads": 4, "kv_heads": 2, "head_dim": 128,
        "intermediate": 768,
    },
    "llama_bias": {"attention_bias": True},
    "rows_of_288": {"hidden": 288, "intermediate": 800, "layers": 2},
}  # fmt: skip


def run(store: Store, model: str) -> ArtifactResult:
    return convert.run(ConvertSpec(model=model, store=str(store.folder)), Reporter("convert"))


def convert_folder(tmp_path: Path, folder: Path) -> tuple[Store, ArtifactResult]:
    store = Store(tmp_path / "store")
    return store, run(store, store_folder(store, folder))


def describe(folder: Path) -> Any:
    files = {name: (folder / name).read_bytes() for name in formats.SMALL_FILES if (folder / name).exists()}
    weights = {path.name: formats.read_header(path, path.name) for path in folder.glob("*.safetensors")}
    return formats.describe(files, weights)


@pytest.mark.parametrize("case", CONVERT_CASES)
def test_tensors_and_keys_equal_those_of_the_upstream_converter(case: str, tmp_path: Path) -> None:
    store, result = convert_folder(tmp_path, write_model(tmp_path / "model", **CONVERT_CASES[case]))
    ours = digest_gguf(store.blob_path(result.blob))
    theirs = json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))
    assert ours["tensors"] == theirs["tensors"]
    assert list(ours["tensors"]) == list(theirs["tensors"])
    differing = {key for key in ours["metadata"] | theirs["metadata"]
                 if ours["metadata"].get(key) != theirs["metadata"].get(key)}  # fmt: skip
    assert differing - UPSTREAM_ONLY == ON_PURPOSE.get(case, set())


@pytest.mark.parametrize("case", CONVERT_CASES)
def test_the_size_is_known_exactly_before_a_weight_is_read(case: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", **CONVERT_CASES[case])
    shape = describe(folder)
    store, result = convert_folder(tmp_path, folder)
    size = store.blob_path(result.blob).stat().st_size
    assert gguf_bytes(shape, shape.source_type) == size == result.size_bytes


def test_the_result_is_a_manifest_with_its_lineage(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", dtype="f16")
    store = Store(tmp_path / "store")
    model = store_folder(store, folder)
    result = run(store, model)
    manifest = store.manifest(result.manifest)
    assert manifest.kind == "gguf"
    assert [blob.name for blob in manifest.blobs] == ["model-F16.gguf"]
    assert manifest.lineage["dev.slm.source"] == model
    assert manifest.lineage["dev.slm.tool"] == result.tool
    assert hash_file(store.blob_path(result.blob)) == result.blob


def test_a_second_conversion_takes_the_first_ones_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = store_folder(store, write_model(tmp_path / "model"))
    first, second = run(store, model), run(store, model)
    assert (first.cached, second.cached) == (False, True)
    assert second.model_copy(update={"cached": False}) == first


def test_the_same_model_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    results = []
    for place in ("here", "there/and/deeper"):
        (tmp_path / place).mkdir(parents=True)
        results.append(convert_folder(tmp_path / place, write_model(tmp_path / place / "any name"))[1])
    assert results[0] == results[1]


def test_nothing_is_left_in_the_stores_scratch_folder(tmp_path: Path) -> None:
    store, _ = convert_folder(tmp_path, write_model(tmp_path / "model"))
    assert list((store.folder / "tmp").iterdir()) == []


# VmHWM and not ru_maxrss: the latter survives exec, so a child of a large process starts at its parent's peak.
MEASURED_RUN = """
import re, sys
from slm_pipelines.__main__ import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(peak.group(1), file=sys.stderr)
sys.exit(code)
"""


def test_memory_stays_small_beside_the_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", hidden=512, intermediate=1024, vocab=151936)
    store = Store(tmp_path / "store")
    spec, result = tmp_path / "spec.json", tmp_path / "result.json"
    spec.write_text(ConvertSpec(model=store_folder(store, folder), store=str(store.folder)).model_dump_json())
    command = [sys.executable, "-c", MEASURED_RUN, "convert", "--spec", str(spec), "--result", str(result)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    outcome = Outcome.model_validate_json(result.read_text())
    assert isinstance(outcome.result, ArtifactResult)
    assert outcome.result.size_bytes > 300 << 20
    assert int(done.stderr) * 1024 < 200 << 20


def test_a_gguf_repository_is_handed_on_as_it_is(tmp_path: Path) -> None:
    store, made = convert_folder(tmp_path, write_model(tmp_path / "model"))
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(store.blob_path(made.blob).read_bytes())
    (folder / "README.md").write_text("A model.")
    result = run(store, store_folder(store, folder))
    assert (result.blob, result.cached) == (made.blob, True)
    assert [blob.name for blob in store.manifest(result.manifest).blobs] == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (slice(0, 1000), "model.gguf is not a sound GGUF file: it ends inside its header"),
        (slice(0, -64), "but the file has"),
        (slice(1, None), "it does not begin with the letters GGUF"),
    ],
)
def test_a_damaged_gguf_is_refused(cut: slice, message: str, tmp_path: Path) -> None:
    store, made = convert_folder(tmp_path, write_model(tmp_path / "model"))
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(store.blob_path(made.blob).read_bytes()[cut])
    with pytest.raises(BadInput) as caught:
        run(store, store_folder(store, folder))
    assert caught.value.reason is Reason.INVALID_GGUF
    assert message in caught.value.message


def test_a_model_without_weights_says_what_to_choose(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StepFailure) as caught:
        convert_folder(tmp_path, folder)
    assert caught.value.reason is Reason.FILE_NOT_FOUND
    assert "let allowPatterns choose exactly one unsplit .gguf file" in caught.value.message


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(document | changes), encoding="utf-8")

    return apply


def edit_model(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        edit("tokenizer.json", model=document["model"] | changes)(folder)

    return apply


def edit_added(at: int, **changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        added[at] |= changes
        edit("tokenizer.json", added_tokens=added)(folder)

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return apply


CONFIG = "config.json"
SPLIT = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split_by(**changes: Any) -> Callable[[Path], None]:
    steps = [SPLIT | {"pattern": {"Regex": QWEN2_SPLIT}} | changes, BYTES]
    return edit("tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": steps})


REFUSED: dict[str, tuple[Callable[[Path], None], Reason, str]] = {
    "no config": (remove(CONFIG), Reason.INVALID_CONFIG, "The model has no config.json"),
    "config not json": (write(CONFIG, "{"), Reason.INVALID_CONFIG, "config.json is not valid JSON"),
    "other architecture": (
        edit(CONFIG, architectures=["MambaForCausalLM"]),
        Reason.UNSUPPORTED_ARCHITECTURE,
        "MambaForCausalLM cannot be converted: use one of LlamaForCausalLM, Qwen3ForCausalLM",
    ),
    "no layers": (edit(CONFIG, num_hidden_layers=0), Reason.INVALID_CONFIG, "num_hidden_layers 0 where a whole number"),
    "more layers": (
        edit(CONFIG, num_hidden_layers=3),
        Reason.INVALID_CONFIG,
        "asks for tensor model.layers.2.input_layernorm.weight, which no safetensors file holds",
    ),
    "fewer layers": (
        edit(CONFIG, num_hidden_layers=1),
        Reason.INVALID_CONFIG,
        "which has no tensor model.layers.1.input_layernorm.weight, but the weights hold one",
    ),
    "other vocabulary": (edit(CONFIG, vocab_size=600), Reason.INVALID_CONFIG, "the shape [600, 256], but the weights"),
    "heads": (edit(CONFIG, num_key_value_heads=3), Reason.INVALID_CONFIG, "4 heads, 3 key-value heads"),
    "scaling": (
        edit(CONFIG, rope_scaling={"rope_type": "longrope"}),
        Reason.UNSUPPORTED_ARCHITECTURE,
        "Position scaling 'longrope' is not supported for llama",
    ),
    "text in scaling": (
        edit(CONFIG, rope_scaling={"rope_type": "linear", "factor": "4"}),
        Reason.INVALID_CONFIG,
        "has factor '4' where a positive number is needed",
    ),
    "activation": (edit(CONFIG, hidden_act="gelu"), Reason.UNSUPPORTED_ARCHITECTURE, "hidden_act gelu"),
    "quantized": (edit(CONFIG, quantization_config={"bits": 4}), Reason.UNSUPPORTED_DTYPE, "are quantized already"),
    "no tokenizer": (remove("tokenizer.json"), Reason.MISSING_TOKENIZER, "The repository has neither tokenizer.json"),
    "unigram": (edit_model(type="Unigram"), Reason.UNSUPPORTED_TOKENIZER, "tokenizer.json is of the kind Unigram"),
    "ids": (edit_model(vocab={"a": 9999}), Reason.UNSUPPORTED_TOKENIZER, "Token 'a' has the id 9999, outside"),
    "merges": (
        edit_model(merges=7),
        Reason.UNSUPPORTED_TOKENIZER,
        "tokenizer.json or tokenizer_config.json is malformed",
    ),
    "surrogate": (
        edit_model(vocab={"\ud800": 1}),
        Reason.UNSUPPORTED_TOKENIZER,
        "tokenizer.json or tokenizer_config.json is malformed",
    ),
    "no merges": (edit_model(merges=[]), Reason.UNSUPPORTED_TOKENIZER, "has no merges, so it splits every text into"),
    "dropout": (edit_model(dropout=0.1), Reason.UNSUPPORTED_TOKENIZER, "has dropout 0.1, which llama.cpp does not do"),
    "lower case": (
        edit("tokenizer.json", normalizer={"type": "Lowercase"}),
        Reason.UNSUPPORTED_TOKENIZER,
        "tokenizer.json changes text by Lowercase first, which llama.cpp does not do",
    ),
    "lower case in a sequence": (
        edit("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}),
        Reason.UNSUPPORTED_TOKENIZER,
        "tokenizer.json changes text by NFKC first",
    ),
    "split that removes": (
        split_by(behavior="Removed"),
        Reason.UNSUPPORTED_TOKENIZER,
        "splits text with behavior 'Removed' and invert False, where llama.cpp does 'Isolated' and False",
    ),
    "split turned round": (split_by(invert=True), Reason.UNSUPPORTED_TOKENIZER, "behavior 'Isolated' and invert True"),
    "token with two ids": (
        edit_added(1, id=7, content="t", special=True),
        Reason.UNSUPPORTED_TOKENIZER,
        "Token 't' has two ids",
    ),
    "other first token": (
        edit("tokenizer_config.json", bos_token="<|im_start|>"),
        Reason.UNSUPPORTED_TOKENIZER,
        "begins every text with '<|begin_of_text|>', which is not bos_token '<|im_start|>'",
    ),
    "split rule": (
        edit("tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}),
        Reason.UNSUPPORTED_TOKENIZER,
        "splits text by a rule that llama.cpp has no name for (x+)",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_model_that_cannot_be_converted_says_why(fault: str, tmp_path: Path) -> None:
    change, reason, message = REFUSED[fault]
    folder = write_model(tmp_path / "model")
    change(folder)
    with pytest.raises(BadInput) as caught:
        convert_folder(tmp_path, folder)
    assert caught.value.reason is reason
    assert message in caught.value.message


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadInput) as caught:
        convert_folder(tmp_path, folder)
    assert caught.value.reason is Reason.FILE_NOT_FOUND
    assert f"{safetensors.INDEX_NAME} names model-00002-of-00002.safetensors" in caught.value.message


BYTES_BY_REGEX = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: list[tuple[str, dict[str, Any]]] = [
    ("llama", BYTES_BY_REGEX),
    ("llama", {"type": "Sequence", "pretokenizers": [DIGITS, BYTES_BY_REGEX]}),
]


@pytest.mark.parametrize(("pre_tokenizer", "name"), [(PRE_TOKENIZERS[0][1], "gpt-2"), (PRE_TOKENIZERS[1][1], "smollm")])
def test_splitting_rules_are_recognised(pre_tokenizer: dict[str, Any], name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    edit("tokenizer.json", pre_tokenizer=pre_tokenizer)(folder)
    store, result = convert_folder(tmp_path, folder)
    assert digest_gguf(store.blob_path(result.blob))["metadata"]["tokenizer.ggml.pre"] == name


def test_a_normalizer_that_only_composes_letters_changes_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen3")
    edit("tokenizer.json", normalizer={"type": "NFC"})(folder)
    plain = write_model(tmp_path / "plain", "qwen3")
    results = [convert_folder(tmp_path / name, path)[1].blob for name, path in (("a", folder), ("b", plain))]
    assert results[0] == results[1]


@pytest.mark.parametrize(("family", "pre_tokenizer"), [("llama", None), ("qwen3", None), *PRE_TOKENIZERS])
def test_llama_cpp_splits_text_as_the_original_tokenizer_does(
    family: Any, pre_tokenizer: dict[str, Any] | None, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", family)
    if pre_tokenizer is not None:
        edit("tokenizer.json", pre_tokenizer=pre_tokenizer)(folder)
    store, result = convert_folder(tmp_path, folder)
    text = "The rain in Spain, 1234567 times!\n\n  isn't it's I'LL <|im_start|>end\t \u00e9\u4f60 ...?"
    tool = llama_cpp.locate().program("llama-tokenize")
    command = [str(tool), "-m", str(store.blob_path(result.blob)), "--ids", "--log-disable", "-p", text]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@pytest.mark.parametrize("model", SIZED_MODELS)
def test_predicted_sizes_are_those_of_llama_quantize(model: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", **SIZED_MODELS[model])
    shape = describe(folder)
    store, result = convert_folder(tmp_path, folder)
    quantize = llama_cpp.locate().program("llama-quantize")
    wrong = {}
    for name in SIZED_TYPES:
        target = tmp_path / "out.gguf"
        command = [str(quantize), str(store.blob_path(result.blob)), str(target), name, "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr[-500:]}"
        if target.stat().st_size != gguf_bytes(shape, name):
            wrong[name] = (target.stat().st_size, gguf_bytes(shape, name), *re.findall(r"falling back", done.stderr))
        target.unlink()
    assert wrong == {}
