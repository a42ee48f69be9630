"""What each step is asked to do: one spec per step, given as JSON."""

from typing import Any, Literal

from pydantic import Field

from slm_contract.base import Message
from slm_contract.digests import Digest, PinnedDigest, SourceDigest

MAX_FILE_BYTES = 1 << 40
"""Twice the largest file that the public hub takes; a source that lists a longer one is broken or hostile."""


class HuggingFace(Message):
    """A repository on a hub that speaks the Hugging Face protocol."""

    repo: str
    """Repository as ``owner/name``."""
    revision: str = "main"
    """Branch, tag or commit; always resolved to a commit before anything is fetched."""
    allow_patterns: list[str] = Field(default_factory=list)
    """Shell patterns of the files to take beside configuration and tokenizer; empty takes what the formats need."""
    ignore_patterns: list[str] = Field(default_factory=list)
    """Shell patterns of the files to leave out, applied after ``allowPatterns``."""
    endpoint: str = ""
    """Base address of the hub; empty means HF_ENDPOINT or the public hub."""
    send_token: bool = True
    """False where the manifest names a hub of its own but no token: ours is not for it."""


class LocalPath(Message):
    """A folder or a GGUF file on this machine."""

    path: str
    """Absolute path."""


class Source(Message):
    """Exactly one place that weights come from."""

    hugging_face: HuggingFace | None = None
    """A repository on a hub; null when the source is a path."""
    path: LocalPath | None = None
    """A folder or file on this machine; null when the source is a hub."""


class Pin(Message):
    """What the user already knows about the content and wants enforced."""

    revision: str = ""
    """The commit the revision must resolve to; empty accepts any."""
    files: dict[str, PinnedDigest] = Field(default_factory=dict)
    """File name to the digest its content must have."""


class ResolveSpec(Message):
    """Find out everything about a model without fetching its weights."""

    step: Literal["resolve"] = "resolve"
    """Which step this is."""
    source: Source
    """Where to ask."""
    pin: Pin = Pin()
    """What must hold."""
    license_allow: list[str] = Field(default_factory=list)
    """Accepted licences as SPDX or hub identifiers, compared case-insensitively; empty accepts any."""
    allow_private_hosts: list[str] = Field(default_factory=list)
    """``host`` or ``host:port`` inside private or loopback networks that may be contacted."""


class AcquireSpec(Message):
    """Bring the files of a resolved model into the store."""

    step: Literal["acquire"] = "acquire"
    """Which step this is."""
    source: Source
    """Where to fetch from."""
    revision: str
    """Commit from the resolve step (for a local path: its content identity)."""
    files: list["ModelFile"] = Field(default_factory=list)
    """Files to bring, as resolve listed them; empty asks the hub for the list again."""
    pin: Pin = Pin()
    """What must hold, checked against the bytes."""
    license_allow: list[str] = Field(default_factory=list)
    """As in resolve: a spec may be run alone."""
    allow_private_hosts: list[str] = Field(default_factory=list)
    """As in resolve."""
    store: str
    """Folder of the store."""


class ModelFile(Message):
    """One file of a model."""

    name: str
    """Path inside the repository, with ``/`` between parts; never absolute, never upwards."""
    size_bytes: int = Field(ge=0, le=MAX_FILE_BYTES)
    """Length, bytes."""
    digest: SourceDigest = ""
    """``sha256:…`` where the source publishes one, or ``git-sha1:…`` for a hub's small files."""


class ConvertSpec(Message):
    """Turn the safetensors of a model manifest into one unquantized GGUF file."""

    step: Literal["convert"] = "convert"
    """Which step this is."""
    model: Digest
    """Digest of the model's manifest in the store."""
    store: str
    """Folder of the store."""


class AdaptSpec(Message):
    """Turn a LoRA adapter's safetensors into a GGUF adapter for one model."""

    step: Literal["adapt"] = "adapt"
    """Which step this is."""
    adapter: Digest
    """Digest of the adapter's manifest in the store."""
    model: Digest
    """Digest of the manifest of the model that it changes."""
    store: str
    """Folder of the store."""


class SnapshotSpec(Message):
    """Lay a model's files out as a folder, under the names they have in their repository."""

    step: Literal["snapshot"] = "snapshot"
    """Which step this is."""
    model: Digest
    """Digest of the model's manifest in the store."""
    beside: Digest = ""
    """Where it is to be loaded beside another model, as its LoRA adapter or its draft model: the digest of that one's
    manifest. The two are held against each other."""
    store: str
    """Folder of the store."""


class VocabularySpec(Message):
    """Hold a draft model's vocabulary against that of the model that it drafts for."""

    step: Literal["vocabulary"] = "vocabulary"
    """Which step this is."""
    gguf: Digest
    """Digest of the GGUF file that is served."""
    draft: Digest
    """Digest of the GGUF file of the draft model."""
    store: str
    """Folder of the store."""


class ProjectorSpec(Message):
    """Hold a multimodal projector against the model whose embeddings it makes."""

    step: Literal["projector"] = "projector"
    """Which step this is."""
    gguf: Digest
    """Digest of the GGUF file that is served."""
    projector: Digest
    """Digest of the projector's GGUF file."""
    store: str
    """Folder of the store."""


class QuantizeSpec(Message):
    """Make one variant of an unquantized GGUF."""

    step: Literal["quantize"] = "quantize"
    """Which step this is."""
    gguf: Digest
    """Digest of the manifest of the unquantized GGUF (from convert)."""
    type: str
    """llama.cpp type name such as Q4_K_M."""
    threads: int = 0
    """Worker threads; 0 takes the number of CPUs this process may use."""
    store: str
    """Folder of the store."""


class EvaluateSpec(Message):
    """Measure perplexity; with ``baseline`` also KL divergence and top-one agreement against it."""

    step: Literal["evaluate"] = "evaluate"
    """Which step this is."""
    gguf: Digest
    """Digest of the manifest of the GGUF to measure."""
    baseline: Digest = ""
    """Digest of the manifest of the unquantized GGUF; empty measures only perplexity."""
    text: str = ""
    """Absolute path of the evaluation text (UTF-8); empty takes the text that ships."""
    context_size: int = 512
    """Tokens per chunk."""
    chunks: int = 16
    """Most chunks to measure; the text may hold fewer, but not fewer than two."""
    threads: int = 0
    """Worker threads; 0 takes the number of CPUs this process may use."""
    store: str
    """Folder of the store."""


class BenchmarkSpec(Message):
    """Measure tokens per second with llama-bench."""

    step: Literal["benchmark"] = "benchmark"
    """Which step this is."""
    gguf: Digest
    """Digest of the manifest of the GGUF to measure."""
    prompt_tokens: int = 128
    """Tokens of the prompt-processing test."""
    generate_tokens: int = 32
    """Tokens of the generation test."""
    repetitions: int = 3
    """Runs to average."""
    threads: int = 0
    """Worker threads; 0 takes the number of CPUs this process may use."""
    store: str
    """Folder of the store."""


class VariantReport(Message):
    """Everything known about one variant, for the report."""

    type: str
    """llama.cpp type name, or baseline."""
    digest: Digest = ""
    """Digest of the variant's manifest in the store."""
    size_bytes: int = 0
    """Size of the GGUF file, bytes."""
    perplexity: float | None = None
    """Perplexity on the evaluation text; null when not measured."""
    kl_divergence: float | None = None
    """Mean, nats per token."""
    kl_divergence_p99: float | None = None
    """What 99 of 100 positions stay below, nats."""
    top_one_agreement: float | None = None
    """Share of positions, 0 to 1, where the variant's most likely token is the original's."""
    prompt_tokens_per_second: float | None = None
    """Prompt processing speed; null when not measured."""
    prompt_tokens_per_second_spread: float | None = None
    """Half the range of the middle half of the samples; null when it is not known."""
    generate_tokens_per_second: float | None = None
    """Generation speed of one request; null when not measured."""
    generate_tokens_per_second_spread: float | None = None
    """Half the range of the middle half of the samples; null when it is not known."""
    gate_passed: bool | None = None
    """Verdict of the gate; null for the baseline."""
    reason: str = ""
    """Reason of the verdict."""
    message: str = ""
    """The verdict in words, with figures."""


class ModelOrigin(Message):
    """The source model, as resolve found it; what is empty or 0 is not known."""

    source: str = ""
    """Repository as ``owner/name``, or a path."""
    revision: str = ""
    """Commit; for a path the identity of its content."""
    license: str = ""
    """Licence identifier as the source states it."""
    architecture: str = ""
    """Architecture as the model's own configuration names it."""
    parameters: int = 0
    """Number of weights."""
    context_length: int = 0
    """Tokens."""


class GateBounds(Message):
    """The bounds that variants were judged by; None is not checked."""

    max_kl_divergence: float | None = None
    """Mean KL divergence, nats per token."""
    max_perplexity_increase: float | None = None
    """Relative: 0.02 is two percent."""
    min_top_one_agreement: float | None = None
    """Share of positions, 0 to 1."""


class Method(Message):
    """How loss and speed were measured; what is empty or 0 is not known or was not measured."""

    text: Digest = ""
    """Digest of the evaluation text."""
    context_size: int = 0
    """Tokens per chunk."""
    chunks: int = 0
    """Chunks that were measured."""
    prompt_tokens: int = 0
    """Length of the benchmark's prompt, tokens."""
    generate_tokens: int = 0
    """Tokens that the benchmark generated."""
    repetitions: int = 0
    """Runs that were averaged."""
    threads: int = 0
    """Threads that measured the speed."""


class ReportSpec(Message):
    """Draw the HTML page and the picture of a finished QuantJob."""

    step: Literal["report"] = "report"
    """Which step this is."""
    title: str
    """``namespace/name`` of the QuantJob."""
    model: str
    """Where the weights came from, as ``repo@commit`` or a path."""
    baseline: VariantReport
    """The unquantized GGUF and its figures."""
    variants: list[VariantReport]
    """One entry per variant, in the order of the QuantJob."""
    selected: str = ""
    """Type that was chosen; empty when none passed."""
    selection_message: str = ""
    """Why it was chosen, or why none was."""
    tool: str = ""
    """Engine and version that made and measured the variants."""
    origin: ModelOrigin = ModelOrigin()
    """The source model."""
    gate: GateBounds = GateBounds()
    """The bounds that variants were judged by."""
    method: Method = Method()
    """How loss and speed were measured."""
    manifests: list[dict[str, Any]] = Field(default_factory=list)
    """The SLMModel, pinned to its commit, and the QuantJob: applied again, they measure the same again."""
    store: str
    """Folder of the store."""


class CollectSpec(Message):
    """Garbage-collect the store: remove what no root reaches."""

    step: Literal["collect"] = "collect"
    """Which step this is."""
    roots: list[Digest]
    """Manifests to keep, with everything they refer to."""
    kept_since: float = 0.0
    """Unix time, seconds, at which the roots were gathered: what was stored or found again since is kept too, because
    no root could name it yet. 0 says that no step ran since."""
    dry_run: bool = False
    """Only count what would be removed."""
    store: str
    """Folder of the store."""


AnySpec = (
    ResolveSpec
    | AcquireSpec
    | ConvertSpec
    | AdaptSpec
    | SnapshotSpec
    | VocabularySpec
    | ProjectorSpec
    | QuantizeSpec
    | EvaluateSpec
    | BenchmarkSpec
    | ReportSpec
    | CollectSpec
)
