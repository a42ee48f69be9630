"""What each step answers. A result must fit a container's termination message: 4,096 bytes of JSON."""

from typing import Literal

from pydantic import Field

from slm_contract.base import Message
from slm_contract.bounds import MAX_MESSAGE_BYTES, clip
from slm_contract.digests import Digest
from slm_contract.reasons import Reason
from slm_contract.specs import ModelFile


class Dimensions(Message):
    """What the memory of KV cache and buffers is computed from, and how a model may be split."""

    vocab_size: int
    """Rows of the token embedding."""
    hidden_size: int
    """Width of the residual stream, elements."""
    intermediate_size: int
    """Width of the feed-forward layer, elements."""
    layers: int
    """Number of decoder blocks."""
    heads: int
    """Query heads per layer."""
    kv_heads: int
    """Key-value heads per layer."""
    head_dim: int
    """Elements of one head."""


class ModelShape(Dimensions):
    """Dimensions of a dense decoder: all that exact sizes and serving memory are computed from."""

    architecture: Literal["llama", "qwen3"]
    """GGUF architecture name."""
    source_type: Literal["F32", "F16", "BF16"]
    """Type of the stored weight matrices, which is also that of the unquantized GGUF."""
    tied_embeddings: bool
    """True when no separate output matrix is stored."""
    rope_factors: bool = False
    """True when the converter adds a ``rope_freqs`` tensor (Llama 3.1 scaling)."""
    attention_bias: bool = False
    """True when the q, k and v projections have biases."""
    metadata_bytes: int
    """Exact length of the key-value section of the converted GGUF: it depends on tokenizer and template."""


WeightsFormat = Literal["safetensors", "gguf", "awq", "gptq", "fp8", "compressed-tensors", "lora"]
"""How weights are stored: safetensors whose tensors are plain numbers, one GGUF file, or safetensors that were
quantized by a method, named as vLLM names it; lora is an adapter, which changes the weights of a model."""


class ResolveResult(Message):
    """What is known before a weight is fetched."""

    step: Literal["resolve"] = "resolve"
    """Which step this is."""
    revision: str
    """Commit (or content identity of a local path)."""
    format: WeightsFormat
    """What the weights are stored as."""
    architecture: str
    """Architecture as the model's own config names it, such as Qwen3ForCausalLM; for GGUF its general.architecture, for
    an adapter its peft_type."""
    rank: int = 0
    """Rank of a LoRA adapter; 0 for a model."""
    parameters: int
    """Number of weights; 0 where they are packed and nothing tells how."""
    license: str = ""
    """Licence identifier as the source states it; empty when it states none."""
    context_length: int
    """Longest context the model was made for, tokens; 0 for an adapter, and where nothing tells."""
    size_bytes: int
    """Bytes that acquire will fetch."""
    file_count: int
    """Number of files that acquire will fetch."""
    files: list[ModelFile] = Field(default_factory=list)
    """The files, while they fit the message; empty when there are too many (acquire asks again)."""
    shape: ModelShape | None = None
    """None for what cannot be converted, for a GGUF repository, which is taken as it is, and for an adapter."""
    dimensions: Dimensions | None = None
    """Of a model that cannot be converted, where its configuration tells them."""
    conversion_message: str = ""
    """Why safetensors cannot be converted, as a sentence; empty where they can, and for GGUF."""


class AcquireResult(Message):
    """What is in the store now."""

    step: Literal["acquire"] = "acquire"
    """Which step this is."""
    manifest: Digest
    """Manifest of the model: its files as blobs."""
    size_bytes: int
    """Size of all files, bytes."""
    file_count: int
    """Number of files."""
    fetched_bytes: int
    """Bytes that travelled in this run; 0 when everything was in the store."""


class ArtifactResult(Message):
    """A file in the store made by convert, adapt or quantize."""

    step: Literal["convert", "adapt", "quantize"]
    """Which step this is."""
    manifest: Digest
    """Digest of the file's manifest in the store."""
    blob: Digest
    """Digest of the GGUF file itself."""
    size_bytes: int
    """Size of the GGUF file, bytes."""
    cached: bool
    """True when the store already held the result of this recipe."""
    tool: str
    """Tool and version that made it."""


class SnapshotResult(Message):
    """A folder of a model's files, for engines that read a repository and not one file."""

    step: Literal["snapshot"] = "snapshot"
    """Which step this is."""
    manifest: Digest
    """Digest of the model's manifest, which is also the folder's name."""
    size_bytes: int
    """Size of the weights among them, bytes."""
    file_count: int
    """Number of files."""


class VocabularyResult(Message):
    """A draft model's vocabulary is that of the model that it drafts for."""

    step: Literal["vocabulary"] = "vocabulary"
    """Which step this is."""
    tokens: int
    """Tokens that both have."""


class ProjectorResult(Message):
    """A projector makes embeddings of the model's width."""

    step: Literal["projector"] = "projector"
    """Which step this is."""
    kinds: list[Literal["vision", "audio"]]
    """What it projects."""


class EvaluateResult(Message):
    """What a variant lost."""

    step: Literal["evaluate"] = "evaluate"
    """Which step this is."""
    perplexity: float
    """Perplexity on the evaluation text."""
    kl_divergence: float | None = None
    """Mean KL divergence of the next-token distribution from the baseline's, nats."""
    kl_divergence_p99: float | None = None
    """What 99 of 100 positions stay below, nats."""
    top_one_agreement: float | None = None
    """0 to 1."""
    text: Digest = ""
    """Digest of the evaluation text."""
    chunks: int
    """Chunks that were measured."""
    cached: bool
    """True when the store already held these figures."""
    tool: str
    """Tool and version that measured."""


class BenchmarkResult(Message):
    """How fast a variant is on this machine."""

    step: Literal["benchmark"] = "benchmark"
    """Which step this is."""
    prompt_tokens_per_second: float
    """Prompt processing speed."""
    generate_tokens_per_second: float
    """Generation speed of one request."""
    prompt_tokens_per_second_spread: float | None = None
    """Half the range of the middle half of the samples; null when it is not known."""
    generate_tokens_per_second_spread: float | None = None
    """Half the range of the middle half of the samples; null when it is not known."""
    threads: int
    """Threads that were used."""
    cached: bool
    """True when the store already held these figures."""
    tool: str
    """Tool and version that measured."""


class ReportResult(Message):
    """Where the report lies in the store."""

    step: Literal["report"] = "report"
    """Which step this is."""
    html: Digest
    """Blob of the page."""
    png: Digest
    """Blob of the picture."""
    manifest: Digest
    """Digest of the report's manifest in the store."""


class CollectResult(Message):
    """What garbage collection removed."""

    step: Literal["collect"] = "collect"
    """Which step this is."""
    removed_blobs: int
    """Blobs that were removed, or would be in a dry run."""
    removed_bytes: int
    """Their size, bytes."""
    kept_blobs: int
    """Blobs that a root reaches."""


AnyResult = (
    ResolveResult
    | AcquireResult
    | ArtifactResult
    | SnapshotResult
    | VocabularyResult
    | ProjectorResult
    | EvaluateResult
    | BenchmarkResult
    | ReportResult
    | CollectResult
)


class StepError(Message):
    """Why a step failed, in words for the user."""

    reason: Reason
    """Reason for machines; reasons.md lists all."""
    message: str
    """One sentence that says what is wrong and what to change."""

    @staticmethod
    def of(reason: Reason, message: str) -> "StepError":
        """An error whose sentence, which may quote what somebody else wrote, fits the outcome."""
        return StepError(reason=reason, message=clip(message, MAX_MESSAGE_BYTES))


class Outcome(Message):
    """The termination message: exactly one of the two."""

    result: AnyResult | None = None
    """What the step answers; null when it failed."""
    error: StepError | None = None
    """Why it failed; null when it did not."""
    peak_memory_bytes: int = 0
    """Highest resident memory of the step and its largest child."""
    seconds: float = 0.0
    """Wall time of the step."""

    def encode(self) -> bytes:
        """The line that is written where the platform reads it."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"


class Progress(Message):
    """One line on standard output while a step works."""

    step: str
    """Which step speaks."""
    message: str
    """What it does, for people."""
    done: int = 0
    """Units done so far."""
    total: int = 0
    """Units in all; 0 when unknown."""
    unit: Literal["bytes", "tensors", "chunks", "files", ""] = ""
    """What done and total count."""
