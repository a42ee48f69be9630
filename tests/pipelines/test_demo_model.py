"""The demo's own model: really trained, and losing what quantization is known to lose."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer

from dev.demo import corpus, llama, start
from dev.demo.repository import encode_bfloat16
from slm_contract.results import EvaluateResult
from slm_contract.specs import ConvertSpec, EvaluateSpec, QuantizeSpec
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import convert, evaluate, quantize
from slm_pipelines.store import Store
from slm_pipelines.tools.llama_cpp import Engine
from tests.support.engine import engine
from tests.support.servers import run_server
from tests.support.stored import store_folder
from tests.support.trained import trained_model

__all__ = ["engine"]

REPORTER = Reporter("test")
TYPES = ("Q4_0", "Q4_K_M", "Q5_1", "Q8_0")
REPO_FILES = {
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", ".recipe",
}  # fmt: skip


def run_training(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dev.demo.train", str(folder), *more]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model that `make demo` serves."""
    return trained_model()


@pytest.fixture(scope="session")
def stored(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A store with the model converted; the digest of the GGUF's manifest."""
    store = Store(tmp_path_factory.mktemp("store"))
    spec = ConvertSpec(model=store_folder(store, demo_model), store=str(store.folder))
    return store, convert.run(spec, REPORTER).manifest


@pytest.fixture(scope="session")
def figures(stored: tuple[Store, str], engine: Engine) -> dict[str, EvaluateResult]:
    """Every type measured as the demo does it: the text, context and chunks that are the defaults."""
    assert engine.version
    store, source = stored
    folder = str(store.folder)
    made = {name: quantize.run(QuantizeSpec(gguf=source, type=name, store=folder), REPORTER).manifest for name in TYPES}
    manifests = {"BF16": source} | made
    specs = {name: EvaluateSpec(gguf=gguf, baseline=source, store=folder) for name, gguf in manifests.items()}
    return {name: evaluate.run(spec, REPORTER) for name, spec in specs.items()}


@pytest.fixture
def server(stored: tuple[Store, str], engine: Engine, tmp_path: Path) -> Iterator[str]:
    """Address of a llama-server with the unquantized model."""
    store, source = stored
    (path,) = store.files(source).values()
    with run_server(engine, path, tmp_path, "--jinja") as address:
        yield address


def test_a_head_that_looks_back_attends_to_that_token() -> None:
    weights = start.random_weights(np.random.default_rng(2))
    constant = np.full(256, 1 / 16, np.float32)
    embed = weights[llama.EMBED]
    embed -= np.outer(embed @ constant, constant)
    embed *= 8 / np.linalg.norm(embed, axis=1, keepdims=True)  # As the pair table's: all of one length,
    embed += start.LEVEL * constant  # and with one component in common.
    start.look_back(weights, 0, 2, constant)
    attention = llama.Attention(weights, 0)
    attention.forward(embed[:64])
    assert (attention.p[0].argmax(axis=1)[2:] == np.arange(62)).all()


def test_losses_are_ordered_by_the_bits_kept(figures: dict[str, EvaluateResult]) -> None:
    losses = [figures[name].kl_divergence or 0.0 for name in TYPES]
    for worse, better in pairwise(losses):
        assert worse > 1.15 * better > 0, losses
    assert (figures["Q8_0"].top_one_agreement or 0.0) > 0.992
    assert figures["BF16"].kl_divergence == 0


def test_the_engine_finds_the_perplexity_that_was_measured_while_training(
    figures: dict[str, EvaluateResult], demo_model: Path
) -> None:
    readme = (demo_model / "README.md").read_text()
    found = re.search(r"that part: ([\d.]+) \(of single-token frequencies: ([\d.]+)\)", readme)
    assert found
    perplexity, unigram = map(float, found.groups())
    assert figures["BF16"].perplexity < unigram / 3
    # The engine scores the second half of each chunk, on other windows: near, not equal.
    assert figures["BF16"].perplexity == pytest.approx(perplexity, rel=0.2)


def test_a_greedy_chat_answer_is_made_of_words(server: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "What does the list sort method do?"}],
        "max_tokens": 40, "temperature": 0, "repeat_penalty": 1.2,
    }  # fmt: skip
    answer = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60).json()
    words = re.findall(r"[A-Za-z]{2,}", answer["choices"][0]["message"]["content"])
    assert len(words) >= 3, answer
    assert len(set(words)) > len(words) / 2, words
    known = {word for text in corpus.read_corpus() for word in re.findall(r"[A-Za-z]{2,}", text)}
    assert sum(word in known for word in words) > 0.8 * len(words), words


def test_the_repository_is_whole(demo_model: Path) -> None:
    assert {path.name for path in demo_model.iterdir()} == REPO_FILES
    assert (demo_model / "README.md").read_text().startswith("---\nlicense: psf-2.0\n")
    config = json.loads((demo_model / "config.json").read_text())
    assert (config["architectures"], config["hidden_size"], config["vocab_size"]) == (["LlamaForCausalLM"], 256, 2048)
    tokenizer = Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 2048
    text = "def café(x): return '☃'\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_finished_work_is_not_done_again(demo_model: Path) -> None:
    before = (demo_model / "model.safetensors").stat()
    done = run_training(demo_model)
    assert (done.returncode, done.stdout) == (0, f"    {demo_model} is up to date\n")
    assert (demo_model / "model.safetensors").stat() == before


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run_training(tmp_path / name, "--steps", "2").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    for name in REPO_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = run_training(tmp_path, "--steps", "1")
    assert done.returncode == 1
    assert f"{tmp_path} holds something that this program did not make: name another folder." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_gradients_are_those_of_the_loss() -> None:
    random = np.random.default_rng(1)
    weights = start.random_weights(random)
    weights[llama.HEAD] *= 10  # Large enough for every gradient to stand out of float32's rounding.
    tokens = random.integers(0, llama.SHAPE.vocab, 33)
    _, gradients = llama.loss_and_gradients(weights, tokens)
    assert gradients.keys() == weights.keys()
    for name, gradient in gradients.items():
        step = gradient / np.linalg.norm(gradient) * np.float32(0.02)
        ahead = llama.loss_of(weights | {name: weights[name] + step}, tokens)
        behind = llama.loss_of(weights | {name: weights[name] - step}, tokens)
        assert (ahead - behind) / 0.04 == pytest.approx(np.linalg.norm(gradient), rel=0.05), name


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20)], np.float32)
    assert np.frombuffer(encode_bfloat16(values), "<u2").tolist() == [0x3F80, 0x3F80, 0x3F82, 0xBF81]


def test_help_has_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dev.demo.train", "--help"], check=False, capture_output=True, text=True, env=os.environ
    )
    assert "python -m dev.demo.train build/tiny-docs" in done.stdout
