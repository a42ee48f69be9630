"""evaluate: perplexity, and KL divergence and top-one agreement against a baseline, with llama-perplexity."""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from slm_contract.reasons import Reason
from slm_contract.results import EvaluateResult
from slm_contract.specs import EvaluateSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.figures import FILE_NAME, Figures, gguf_blob, only_one_makes, read_figures, recall_or_measure
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Blob, Store, StoredManifest
from slm_pipelines.tools.dry_run import dry_run
from slm_pipelines.tools.llama_cpp import Engine, locate
from slm_pipelines.tools.perplexity import Measurement, count_tokens, logits_size_bytes

LOGITS_NAME = "logits.bin"
MIN_CHUNKS = 2
"""llama-perplexity refuses a text of fewer chunks, and one chunk has no standard error."""
MIN_CONTEXT = 32
"""Half of a chunk is context for the other half; with less there is nothing to predict from."""
MIN_POSITIONS = 100
"""Fewer predicted tokens get no statistics from llama-perplexity (perplexity.cpp, kl_divergence)."""


@dataclass(frozen=True)
class Text:
    """The evaluation text."""

    path: Path
    digest: str


def read_text(spec: EvaluateSpec) -> Text:
    """The text the spec names or the one that ships; raises BadInput TextNotFound."""
    path = Path(spec.text) if spec.text else Path(str(resources.files("slm_pipelines.tools") / "evaluation.txt"))
    try:
        data = path.read_bytes()
        data.decode()
    except OSError as failure:
        message = f"The evaluation text {path} cannot be read: {failure.strerror}. Name a file that exists, or none."
        raise BadInput(Reason.TEXT_NOT_FOUND, message) from failure
    except UnicodeDecodeError as failure:
        message = f"The evaluation text {path} is not UTF-8 (byte {failure.start}): convert it to UTF-8."
        raise BadInput(Reason.TEXT_NOT_FOUND, message) from failure
    return Text(path, f"sha256:{hashlib.sha256(data).hexdigest()}")


def check_chunking(spec: EvaluateSpec) -> None:
    """Raise BadInput InvalidSpec for chunks that nothing can be measured on."""
    if spec.context_size < MIN_CONTEXT or spec.chunks < MIN_CHUNKS:
        message = (
            f"contextSize {spec.context_size} and chunks {spec.chunks} measure nothing: "
            f"use at least {MIN_CONTEXT} and {MIN_CHUNKS}."
        )
        raise BadInput(Reason.INVALID_SPEC, message)
    if positions(spec.context_size, spec.chunks) < MIN_POSITIONS:
        message = (
            f"contextSize {spec.context_size} and chunks {spec.chunks} predict "
            f"{positions(spec.context_size, spec.chunks)} tokens; statistics need {MIN_POSITIONS}: raise chunks."
        )
        raise BadInput(Reason.INVALID_SPEC, message)


def positions(context_size: int, chunks: int) -> int:
    """Tokens that are predicted and compared: those of the second half of each chunk."""
    return chunks * (context_size - 1 - context_size // 2)


@dataclass(frozen=True)
class Evaluation:
    """One run of the step: what is measured, on what, with what."""

    spec: EvaluateSpec
    store: Store
    engine: Engine
    text: Text
    reporter: Reporter

    def recipe(self, step: str, gguf: Blob, **more: str) -> dict[str, Any]:
        """Identity of a measurement of one file on this text."""
        return {
            "step": step,
            "gguf": gguf.digest,
            "text": self.text.digest,
            "contextSize": self.spec.context_size,
            "chunks": self.spec.chunks,
            "tool": self.engine.version,
            **more,
        }

    def measurement(self, gguf: Blob, chunks: int) -> Measurement:
        """How the tool is to be started for a file."""
        path = self.store.blob_path(gguf.digest)
        return Measurement(self.engine, path, self.spec.context_size, chunks, self.spec.threads, self.reporter)

    def count_chunks(self, gguf: Blob) -> int:
        """Chunks to measure; raises BadInput TextTooShort."""
        tokens = count_tokens(self.engine, self.store.blob_path(gguf.digest), self.text.path)
        context = self.spec.context_size
        least = max(MIN_CHUNKS, -(-MIN_POSITIONS // positions(context, 1)))
        if tokens < least * context:
            message = (
                f"The evaluation text {self.text.path} has {tokens} tokens for this model; {least} chunks of "
                f"{context} need {least * context}: use a longer text or a smaller contextSize."
            )
            raise BadInput(Reason.TEXT_TOO_SHORT, message)
        return min(self.spec.chunks, tokens // context)

    def perplexity(self, gguf: Blob) -> Figures:
        """Perplexity alone, for a file without a baseline."""
        chunks = self.count_chunks(gguf)
        return {"perplexity": self.measurement(gguf, chunks).perplexity(self.text.path), "chunks": chunks}

    def logits(self, baseline: Blob) -> tuple[Path, Figures]:
        """The baseline's logits and perplexity, made once for all its variants."""
        recipe = self.recipe("logits", baseline)
        with only_one_makes(self.store, recipe):  # Variants are evaluated side by side and share the baseline.
            manifest = self.store.recall(recipe)
            if manifest is None:
                manifest = self._make_logits(baseline, recipe)
                self.store.remember(recipe, manifest)
        return self.store.files(manifest)[LOGITS_NAME], read_figures(self.store, manifest)

    def _make_logits(self, baseline: Blob, recipe: dict[str, Any]) -> str:
        chunks = self.count_chunks(baseline)
        vocab = dry_run(self.engine, self.store.blob_path(baseline.digest), "F16").vocab_size
        size = logits_size_bytes(vocab, self.spec.context_size, chunks)
        self.store.require_space(size, "The baseline's logits")
        with self.store.scratch() as folder:
            target = folder / LOGITS_NAME
            perplexity = self.measurement(baseline, chunks).make_logits(self.text.path, target, size)
            logits = self.store.add_file(target, LOGITS_NAME)
        figures = json.dumps({"perplexity": perplexity, "chunks": chunks}, sort_keys=True).encode()
        blobs = (logits, self.store.add_bytes(figures, FILE_NAME))
        lineage = {name: str(value) for name, value in recipe.items()}
        return self.store.add_manifest(StoredManifest("logits", blobs, lineage))

    def divergence(self, gguf: Blob, baseline: Blob) -> Figures:
        """All three figures of a file against its baseline."""
        logits, figures = self.logits(baseline)
        if gguf.digest == baseline.digest:  # The same bytes: equal by definition, not by measurement.
            return {**figures, "klDivergence": 0.0, "klDivergenceP99": 0.0, "topOneAgreement": 1.0}
        return {**figures, **self.measurement(gguf, figures["chunks"]).divergence(logits)}


def run(spec: EvaluateSpec, reporter: Reporter) -> EvaluateResult:
    """Measure, or find that the store has the figures.

    Raises BadInput TextNotFound, TextTooShort, InvalidSpec or InvalidGguf, Retryable MeasurementFailed,
    InsufficientSpace or StepFailed.
    """
    check_chunking(spec)
    text, store = read_text(spec), Store(spec.store)
    evaluation = Evaluation(spec, store, locate(reporter), text, reporter)
    gguf = gguf_blob(store, spec.gguf)
    if spec.baseline:
        baseline = gguf_blob(store, spec.baseline)
        recipe = evaluation.recipe("evaluate", gguf, baseline=baseline.digest)
        figures, cached = recall_or_measure(store, recipe, lambda: evaluation.divergence(gguf, baseline))
    else:
        recipe = evaluation.recipe("evaluate", gguf)
        figures, cached = recall_or_measure(store, recipe, lambda: evaluation.perplexity(gguf))
    return EvaluateResult(
        perplexity=figures["perplexity"],
        kl_divergence=figures.get("klDivergence"),
        kl_divergence_p99=figures.get("klDivergenceP99"),
        top_one_agreement=figures.get("topOneAgreement"),
        chunks=figures["chunks"],
        text=text.digest,
        cached=cached,
        tool=evaluation.engine.version,
    )
