"""Train a small real Llama on Python's own documentation, and write it as a Hugging Face repository folder.

Needs no network and no accelerator. The same Python, numpy, tokenizers and kind of processor give the same bytes; a
folder that this recipe already made is left as it is.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dev.demo.corpus import END, TURN_END, TURN_START, corpus_digest, manual_text, read_corpus
from dev.demo.llama import SHAPE, Array, Tokens, Weights, loss_and_gradients, loss_of
from dev.demo.repository import write_repository
from dev.demo.start import starting_weights

STEPS = 180
WINDOW = 512
"""Tokens per sequence: what variants are measured on, so that no position is new to the model."""
WORKERS = 2
"""Sequences per step, each with a thread of its own; a constant, so that the sums never depend on the machine."""
PEAK_RATE = 0.003
WARM_UP = 15
"""Steps until the peak: Adam's first estimates are of one batch."""
MOMENTUM, SPREAD = 0.9, 0.97
"""Adam's decay rates; the second is low because a run has few steps."""
MEASURED_WINDOWS = 24
MARKER = ".recipe"
EXAMPLE = """example:
  python -m dev.demo.train build/tiny-docs
  python -m slm_pipelines.tools.llama_cpp     # then convert, quantize and serve it; `make demo` does all of it
"""


class Adam:
    """Each weight moves by its mean gradient over the root of its mean squared gradient.

    ``m`` and ``v`` are running means that start at zero, hence the division by ``1 - decay^step``.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.m = {name: np.zeros_like(value) for name, value in weights.items()}
        self.v = {name: np.zeros_like(value) for name, value in weights.items()}

    def update(self, name: str, gradient: Array, step: int, rate: float) -> None:
        """One step for one tensor, in place; ``step`` counts from one."""
        m, v = self.m[name], self.v[name]
        m += (1 - MOMENTUM) * (gradient - m)
        v += (1 - SPREAD) * (gradient * gradient - v)
        mean, square = m / (1 - MOMENTUM**step), v / (1 - SPREAD**step)
        self.weights[name] -= np.float32(rate) * mean / (np.sqrt(square) + np.float32(1e-8))


def rate_at(step: int, steps: int) -> float:
    """Rise to the peak, then fall linearly towards zero, so that the last steps only settle."""
    return PEAK_RATE * min(1.0, step / WARM_UP) * (1 - 0.97 * step / steps)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting rule: every byte has a token, so that any text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocab,
        special_tokens=[END, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def batches(tokens: Tokens, random: np.random.Generator) -> Iterator[list[Tokens]]:
    """WORKERS windows at a time, in a new order after each pass over the text."""
    while True:
        starts = random.permutation((len(tokens) - 1) // WINDOW) * WINDOW
        for first in range(0, len(starts) - WORKERS + 1, WORKERS):
            yield [tokens[start : start + WINDOW + 1] for start in starts[first : first + WORKERS]]


def fit(tokens: Tokens, steps: int) -> Weights:
    """Train; prints a line now and then."""
    random = np.random.default_rng(0)
    weights = starting_weights(tokens, random)
    adam, began = Adam(weights), time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        for step, batch in zip(range(1, steps + 1), batches(tokens, random), strict=False):
            results = list(pool.map(lambda window: loss_and_gradients(weights, window), batch))
            rate = rate_at(step, steps)

            def update(name: str) -> None:
                mean = np.mean([gradients[name] for _, gradients in results], axis=0)  # noqa: B023 - used in the step
                adam.update(name, mean, step, rate)  # noqa: B023

            list(pool.map(update, weights))
            if step % 20 == 0 or step == steps:
                loss = sum(loss for loss, _ in results) / WORKERS
                print(f"    step {step:4}/{steps}  loss {loss:6.3f}  {time.monotonic() - began:5.1f} s", flush=True)
    return weights


def measure(weights: Weights, tokens: Tokens, manual: Tokens) -> dict[str, float]:
    """Perplexity on the manual, beside that of token frequencies alone (each token counted once more than seen)."""
    windows = [manual[at * WINDOW : (at + 1) * WINDOW + 1] for at in range(MEASURED_WINDOWS)]
    counts = np.bincount(tokens, minlength=SHAPE.vocab) + 1.0
    unigram = float(np.mean(np.log(counts.sum() / counts[manual])))
    mean = sum(loss_of(weights, window) for window in windows) / len(windows)
    return {"perplexity": float(np.exp(mean)), "unigram": float(np.exp(unigram))}


def train(folder: Path, steps: int = STEPS) -> None:
    """Train and write ``folder``, unless it holds what this recipe makes."""
    texts = read_corpus()
    recipe = recipe_digest(texts, steps)
    marker = folder / MARKER
    if marker.exists() and marker.read_text(encoding="utf-8").strip() == recipe:
        print(f"    {folder} is up to date")
        return
    tokenizer = train_tokenizer(texts)
    tokens = np.array([token for text in tokenizer.encode_batch([END + text for text in texts]) for token in text.ids])
    manual = np.array(tokenizer.encode(manual_text()).ids)
    print(f"    {len(texts):,} texts, {sum(map(len, texts)):,} characters, {len(tokens):,} tokens", flush=True)
    weights = fit(tokens, steps)
    measured = measure(weights, tokens, manual)
    print("    perplexity {perplexity:.1f} on the manual (token frequencies: {unigram:.1f})".format(**measured))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        write_repository(made, weights, tokenizer, measured)
        (made / MARKER).write_text(recipe + "\n", encoding="utf-8")
        replace_folder(made, folder, Path(scratch) / "old")


def replace_folder(made: Path, folder: Path, aside: Path) -> None:
    """Two renames: whoever reads ``folder`` finds the old one, none, or the new one whole."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARKER).exists():
            raise SystemExit(f"{folder} holds something that this program did not make: name another folder.")
        shutil.move(folder, aside)
    made.rename(folder)


def recipe_digest(texts: list[str], steps: int) -> str:
    """Identity of the result: everything that its bytes depend on."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    recipe = {
        "sources": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sources if p.name != "run.py"},
        "versions": [platform.python_version(), *map(importlib.metadata.version, ("numpy", "tokenizers"))],
        "text": corpus_digest(texts),
        "steps": steps,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def use_one_blas_thread() -> None:
    """Start over with one BLAS thread per call: how a product is cut up changes its last bits.

    The variables count only before numpy is loaded; the training uses its two threads on two sequences instead.
    """
    wanted = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    if wanted.items() <= os.environ.items():
        return
    arguments = [sys.executable, "-m", "dev.demo.train", *sys.argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, **wanted})  # noqa: S606


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.demo.train",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; replaced when its recipe changed")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    use_one_blas_thread()
    train(arguments.out.resolve(), arguments.steps)


if __name__ == "__main__":
    main()
