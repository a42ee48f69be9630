"""A draft model must speak in the served model's tokens: what differs is told before an engine starts."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from slm_contract import exitcodes
from slm_contract.results import Outcome
from slm_contract.specs import ConvertSpec, VocabularySpec
from slm_pipelines.__main__ import run_step
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import convert
from slm_pipelines.store import Store
from slm_pipelines.tools.llama_cpp import Engine
from tests.support.engine import engine
from tests.support.models import write_model
from tests.support.servers import run_server
from tests.support.stored import store_folder

__all__ = ["engine"]

TINY: dict[str, Any] = {"hidden": 64, "heads": 1, "kv_heads": 1, "intermediate": 64, "layers": 1}
LLAMA: dict[str, Any] = {**TINY, "family": "llama"}
QWEN3: dict[str, Any] = {**TINY, "family": "qwen3"}
PIECES: dict[str, Any] = {**LLAMA, "tokenizer": "pieces", "vocab": 640}
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the same tokenizer": (LLAMA, {**LLAMA, "seed": 1}),
    "another architecture of the same tokens": (PIECES, {**PIECES, "family": "qwen3"}),
}
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another kind": (LLAMA, PIECES, "of the kind llama, not gpt2"),
    "another size": (
        {**LLAMA, "config": {"vocab_size": 641}},
        LLAMA,
        "it has 512 tokens, not 641 or up to 128 more or less",
    ),
    "another text": (QWEN3, {**QWEN3, "vocab": 520}, "it has token 501 ('ru'), not token 501 ('<|begin_of_text|>')"),
    "no token in front": (
        LLAMA,
        {**QWEN3, "vocab": 520},
        "it begins a text with none, not token 509 ('<|begin_of_text|>')",
    ),
    "another token in front": (
        LLAMA,
        {**LLAMA, "vocab": 520},
        "it begins a text with token 517 ('<|begin_of_text|>'), not token 509 ('<|begin_of_text|>')",
    ),
    "a token behind": (
        PIECES,
        {**PIECES, "options": {"add_eos_token": True}},
        "it ends a text with token 2 ('</s>'), not none",
    ),
}


def make(store: Store, folder: Path, model: dict[str, Any]) -> str:
    made = store_folder(store, write_model(folder, **model))
    return convert.run(ConvertSpec(model=made, store=str(store.folder)), Reporter("convert")).blob


def compare(tmp_path: Path, served: dict[str, Any], draft: dict[str, Any]) -> tuple[VocabularySpec, int, Outcome]:
    store = Store(tmp_path / "store")
    spec = VocabularySpec(
        gguf=make(store, tmp_path / "served", served),
        draft=make(store, tmp_path / "draft", draft),
        store=str(store.folder),
    )
    return spec, *run_step("vocabulary", spec)


def drafts(engine: Engine, spec: VocabularySpec, folder: Path) -> bool:
    """Whether the real engine drafts with the pair, which it tells with an answer."""
    store = Store(spec.store)
    words = ("--spec-type", "draft-simple", "--spec-draft-model", str(store.blob_path(spec.draft)), "--parallel", "1")
    with run_server(engine, store.blob_path(spec.gguf), folder, *words) as address:
        body = {"prompt": "Count a b c", "max_tokens": 16, "ignore_eos": True}
        answer = httpx.post(f"{address}/v1/completions", json=body, timeout=60).raise_for_status()
    return "draft_n" in answer.json()["timings"]


@pytest.mark.parametrize("case", ALIKE)
def test_a_draft_model_of_the_same_tokens_is_taken_and_the_engine_drafts_with_it(
    case: str, tmp_path: Path, engine: Engine
) -> None:
    served, draft = ALIKE[case]
    spec, code, outcome = compare(tmp_path, served, draft)
    assert (code, outcome.error) == (exitcodes.OK, None)
    assert outcome.result is not None
    assert outcome.result.model_dump() == {"step": "vocabulary", "tokens": served.get("vocab", 512)}
    assert drafts(engine, spec, tmp_path)


def test_sizes_of_a_family_may_differ_by_their_padding(tmp_path: Path) -> None:
    # A model with random weights says padding too, which no other has, so that no engine is asked here.
    _, code, outcome = compare(tmp_path, {**LLAMA, "config": {"vocab_size": 640}}, LLAMA)
    assert (code, outcome.error) == (exitcodes.OK, None)


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_draft_model_of_other_tokens_is_refused_by_what_differs_and_the_engine_would_not_draft_with_it(
    case: str, tmp_path: Path, engine: Engine
) -> None:
    served, draft, message = DIFFERENT[case]
    spec, code, outcome = compare(tmp_path, served, draft)
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert outcome.error.reason == "VocabularyMismatch"
    assert message in outcome.error.message
    assert outcome.error.message.endswith(
        "Name a smaller model of the same family in spec.speculative.draftModelRef, or leave spec.speculative out."
    )
    assert not drafts(engine, spec, tmp_path)


def test_a_file_that_is_gone_says_how_it_is_made_anew(tmp_path: Path) -> None:
    spec, *_ = compare(tmp_path, LLAMA, {**LLAMA, "seed": 1})
    Store(spec.store).blob_path(spec.draft).unlink()
    code, outcome = run_step("vocabulary", spec)
    assert code == exitcodes.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.reason == "StoreCorrupt"
    assert re.match(r"The draft model \(sha256:\w+\) is missing from the store: .*slm.dev/retry", outcome.error.message)
