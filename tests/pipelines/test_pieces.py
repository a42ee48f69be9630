"""SentencePiece tokenizers: read as sentencepiece reads them, split by llama.cpp as the original splits."""

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from slm_contract.reasons import Reason
from slm_contract.specs import ConvertSpec, LocalPath
from slm_pipelines.errors import BadInput
from slm_pipelines.formats import sentencepiece_model
from slm_pipelines.formats.sentencepiece_model import read_model
from slm_pipelines.origins import FolderOrigin
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import convert
from slm_pipelines.store import Store
from slm_pipelines.tools import llama_cpp
from tests.support.gguf_digest import digest_gguf
from tests.support.models import SMALL, TokenizerKind, write_model
from tests.support.pieces import NORMALIZER_LLAMA, TRAINER_BPE, model_bytes, pieces
from tests.support.stored import store_folder

VOCAB = 640
TEXTS = [
    "the rain in spain stays mainly in the plain",
    "Hello world! It's 2024, isn't it?",
    "  two  spaces   three    and a trailing one ",
    "lines\nand\n\nmore\r\n\tand tabs\t\t",
    "\n",
    "caf\u00e9 \u00fcber \u4f60\u597d \u0434\u0430 \u0e44\u0e17\u0e22 \ufb01 \u00bd",
    "\U0001f600\U0001f680 \U0001f469\u200d\U0001f469\u200d\U0001f467 emoji",
    "\u2581under\u2581\u2581score",
    "tokenizers tokenize tokens into tokentokentoken",
    "zzzqqqxxx hthththt ererer ininin",
    "http://example.org/a?b=c&d=%20",
]
SPECIAL_TEXTS = ["<|im_start|>hello<|im_end|>", "a <tool>the rain</s><s>in", "<unk>x"]


def small_model(folder: Path, kind: TokenizerKind, **changes: Any) -> Path:
    return write_model(folder, **{"dtype": "f16", "tokenizer": kind, "vocab": VOCAB, **SMALL, **changes})


def converted(tmp_path: Path, folder: Path) -> Path:
    store = Store(tmp_path / "store")
    spec = ConvertSpec(model=store_folder(store, folder), store=str(store.folder))
    return store.blob_path(convert.run(spec, Reporter("convert")).blob)


def token_ids(gguf: Path, text: str) -> list[int]:
    tool = llama_cpp.locate().program("llama-tokenize")
    command = [str(tool), "-m", str(gguf), "--ids", "--log-disable", "-p", text]
    ids: list[int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return ids


def with_model(folder: Path, data: bytes) -> Path:
    (folder / "tokenizer.model").write_bytes(data)
    return folder


def refusal(tmp_path: Path, folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        converted(tmp_path, folder)
    assert caught.value.reason is Reason.UNSUPPORTED_TOKENIZER
    return caught.value.message


def test_a_model_is_read_as_sentencepiece_reads_it() -> None:
    data = model_bytes(pieces(2000))
    theirs = SentencePieceProcessor(model_proto=data)
    ours = read_model(data).pieces
    assert len(ours) == theirs.vocab_size()
    assert [(piece.text, piece.score) for piece in ours] == [
        (theirs.IdToPiece(index), theirs.GetScore(index)) for index in range(len(ours))
    ]


@pytest.mark.parametrize("kind", ["pieces", "json_pieces"])
def test_llama_cpp_splits_text_as_the_original_tokenizer_does(kind: TokenizerKind, tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", kind)
    gguf = converted(tmp_path, folder)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # What transformers saves today puts no space before text that begins with one; llama.cpp always does.
    texts = [text for text in TEXTS + SPECIAL_TEXTS if kind == "pieces" or not text.startswith((" ", "\u2581"))]
    assert [token_ids(gguf, text) for text in texts] == [original.encode(text).ids for text in texts]


def test_llama_cpp_splits_text_as_sentencepiece_does(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", "pieces")
    gguf = converted(tmp_path, folder)
    original = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert [token_ids(gguf, text) for text in TEXTS] == [[original.bos_id(), *original.encode(text)] for text in TEXTS]


def test_a_model_alone_is_enough(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", "pieces")
    (folder / "tokenizer.json").unlink()
    gguf = converted(tmp_path, folder)
    original = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert token_ids(gguf, TEXTS[0]) == [1, *original.encode(TEXTS[0])]


def test_no_space_is_put_before_a_text_where_the_model_puts_none(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", "pieces")
    table = pieces(VOCAB - 12)
    with_model(folder, model_bytes(table, normalizer=NORMALIZER_LLAMA | {3: 0}))
    gguf = converted(tmp_path, folder)
    original = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert token_ids(gguf, TEXTS[0]) == [1, *original.encode(TEXTS[0])]
    assert digest_gguf(gguf)["metadata"]["tokenizer.ggml.add_space_prefix"] is False


def test_bos_is_added_as_the_config_says_where_no_template_does(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", "pieces", options={"add_bos_token": False})
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(document | {"post_processor": None}), encoding="utf-8")
    assert token_ids(converted(tmp_path, folder), TEXTS[0])[0] != 1


def test_a_special_token_beyond_the_weights_gives_way_to_the_configs(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", "pieces", config={"pad_token_id": 0}, options={"pad_token": "<pad>"})
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"].append({"id": VOCAB, "content": "<pad>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert digest_gguf(converted(tmp_path, folder))["metadata"]["tokenizer.ggml.padding_token_id"] == 0


def test_a_tiktoken_file_beside_a_byte_level_tokenizer_is_not_read(tmp_path: Path) -> None:
    folder = with_model(write_model(tmp_path / "model", **SMALL), b"IQ== 0\nIg== 1\n")
    assert digest_gguf(converted(tmp_path, folder))["metadata"]["tokenizer.ggml.model"] == "gpt2"


def test_an_added_token_that_only_tokenizer_json_knows_keeps_its_id(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", "pieces", options={"added_tokens_decoder": {}})
    gguf = converted(tmp_path, folder)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert token_ids(gguf, SPECIAL_TEXTS[0]) == original.encode(SPECIAL_TEXTS[0]).ids


def test_the_origin_takes_the_tokenizers_files(tmp_path: Path) -> None:
    small_model(tmp_path / "model", "pieces")
    names = {file.name for file in FolderOrigin(LocalPath(path=str(tmp_path / "model"))).list_files().files}
    assert {"tokenizer.model", "added_tokens.json"} <= names


TABLE = pieces(VOCAB - 12)
MODELS: dict[str, tuple[bytes, str]] = {
    "no model": (b"hello", "tokenizer.model is not a sound SentencePiece model ("),
    "empty": (b"", "(it holds no pieces)"),
    "cut short": (model_bytes(TABLE)[:-3], "does not end inside its message"),
    "endless number": (b"\xff" * 20, "a number does not end"),
    "other kind of field": (b"\x08\x01", "a number stands where a message is expected"),
    "unknown kind of piece": (model_bytes([("a", 0.0, 9)]), "a piece has fields of the wrong type"),
    "not UTF-8": (b"\x0a\x03\x0a\x01\xff", "'utf-8' codec can't decode"),
    "too large": (bytes(sentencepiece_model.MAX_BYTES + 1), "more than the 8388608 any real one needs"),
    "too many pieces": (b"\x0a\x00" * (sentencepiece_model.MAX_PIECES + 1), "more than 524288 pieces"),
    "unigram": (model_bytes(TABLE, TRAINER_BPE | {3: 1}), "splits text by another method than BPE, which llama.cpp"),
    "nfkc": (model_bytes(TABLE, normalizer=NORMALIZER_LLAMA | {2: b"x"}), "tokenizer.model replaces letters first"),
    "spaces": (model_bytes(TABLE, normalizer=NORMALIZER_LLAMA | {4: 1}), "removes repeated spaces"),
    "bare spaces": (model_bytes(TABLE, normalizer=NORMALIZER_LLAMA | {5: 0}), "leaves spaces as they are"),
    "suffix": (model_bytes(TABLE, TRAINER_BPE | {24: 1}), "puts the space behind each word"),
    "not a number": (model_bytes([("a", float("nan"), 1), *TABLE]), "has scores that are no numbers"),
    "no bytes": (model_bytes(TABLE[:3] + TABLE[259:]), "has no token <0x00>, so it cannot write every text"),
    "repeated": (model_bytes([*TABLE[:-1], TABLE[5]]), "Token '<0x02>' has two ids"),
}


@pytest.mark.parametrize("fault", MODELS)
def test_a_model_that_llama_cpp_cannot_follow_is_refused(fault: str, tmp_path: Path) -> None:
    data, message = MODELS[fault]
    folder = with_model(small_model(tmp_path / "model", "pieces"), data)
    assert message in refusal(tmp_path, folder)


def change(name: str, **parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: (document[name] if name else document).update(parts)


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
DOCUMENTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "lower case": (change("", normalizer={"type": "Lowercase"}), "changes text by Lowercase first"),
    "split words": (change("", pre_tokenizer=METASPACE), "splits text by Metaspace first"),
    "bare spaces": (change("", pre_tokenizer=None), "does not write spaces as \u2581"),
    "no merges": (change("model", merges=[]), "tokenizer.json has no merges"),
    "whole words": (change("model", ignore_merges=True), "has ignore_merges True"),
    "merge left out": (lambda document: document["model"]["merges"].pop(), "tokenizer.json does not merge ("),
    "merges apart": (
        lambda document: document["model"]["merges"].insert(0, document["model"]["merges"][-1]),
        "ranks merges that make the same token apart",
    ),
    "endless token": (change("model", vocab={"a" * 513: 0}), "has a token of 513 letters, more than the 512 allowed"),
    "merge of three": (change("model", merges=["a b c"]), "tokenizer.json or tokenizer_config.json is malformed"),
    "id outside": (change("model", vocab={"a": VOCAB}), f"Token 'a' has the id {VOCAB}, outside"),
}


@pytest.mark.parametrize("fault", DOCUMENTS)
def test_rules_that_llama_cpp_has_no_word_for_are_refused(fault: str, tmp_path: Path) -> None:
    apply, message = DOCUMENTS[fault]
    folder = small_model(tmp_path / "model", "json_pieces")
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    apply(document)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert message in refusal(tmp_path, folder)


def damaged(data: bytes) -> Iterator[bytes]:
    rng = random.Random(1)  # noqa: S311 (the same damage each time)
    for _ in range(300):
        at, length = rng.randrange(len(data)), rng.randrange(4)
        yield data[:at] + rng.randbytes(length) + data[at + rng.randrange(4) :]


def test_a_damaged_model_raises_nothing_but_value_errors() -> None:
    for data in damaged(model_bytes(pieces(600))):
        try:
            read_model(data)
        except ValueError:
            continue
