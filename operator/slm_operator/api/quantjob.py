"""QuantJob: makes smaller variants, measures each, and lets only those through that pass its gate."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slm_contract.base import Message
from slm_operator.api.meta import (
    CelRule,
    Condition,
    ModelRef,
    PrinterColumn,
    Quantity,
    Resource,
    ResourceInfo,
    ResourceRequirements,
    Scheduling,
    StepAnswer,
)

DEFAULT_VARIANTS = ("Q8_0", "Q5_1", "Q4_K_M", "Q4_0")
"""Made when a goal is given and no variants are named: one per useful size step, largest first."""

TypeName = Annotated[str, Field(min_length=1, max_length=32)]
"""A llama.cpp type; whether the engine knows it is found out by the step, because engines learn new ones."""


class Gate(Message):
    """Bounds that a variant must meet to be served. A bound that is not given is not checked."""

    max_kl_divergence: float | None = Field(default=None, alias="maxKLDivergence", ge=0)
    """Largest mean KL divergence from the unquantized model, nats per token."""
    max_perplexity_increase: float | None = Field(default=None, ge=0)
    """Largest relative growth of perplexity: 0.02 allows two percent."""
    min_top_one_agreement: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of positions where the most likely token stays the same, 0 to 1."""


class Goal(Message):
    """What the chosen variant must achieve, and what to prefer among those that do."""

    max_memory: Quantity | None = None
    """Most memory to serve it (weights, KV cache of 4,096 tokens, buffers), such as 2Gi."""
    min_top_one_agreement: float | None = Field(default=None, ge=0, le=1)
    """Smallest top-one agreement, 0 to 1."""
    min_tokens_per_second: float | None = Field(default=None, ge=0)
    """Smallest generation speed of one request, tokens per second, where the benchmark ran."""
    prefer: Literal["smallest", "fastest", "closest"] = "smallest"
    """Which of the variants that reach the goal is chosen: the smallest file, the fastest, or the one
    closest to the original by KL divergence. Default: smallest."""

    def needs_speed(self) -> bool:
        """Whether it can only be judged with tokens per second."""
        return self.prefer == "fastest" or self.min_tokens_per_second is not None


class Evaluation(Message):
    """How the loss is measured."""

    text: str = Field(default="", max_length=4096)
    """Absolute path of a UTF-8 text to measure on (local backend). Default: the text that ships with the pipelines."""
    context_size: int = Field(default=512, ge=64, le=131072)
    """Tokens per chunk. Default: 512."""
    chunks: int = Field(default=16, ge=2, le=100000)
    """Most chunks measured. Default: 16."""


class Benchmark(Message):
    """How the speed is measured."""

    enabled: bool = True
    """False leaves tokens per second out. Default: true."""
    prompt_tokens: int = Field(default=128, ge=1, le=131072)
    """Length of the prompt, tokens. Default: 128."""
    generate_tokens: int = Field(default=32, ge=1, le=131072)
    """Tokens to generate. Default: 32."""
    repetitions: int = Field(default=3, ge=1, le=100)
    """Runs to average. Default: 3."""


class QuantJobSpec(Scheduling):
    """Which variants to make of which model, and what they must hold."""

    model_ref: ModelRef
    """The SLMModel to quantize. Immutable."""
    toolchain: Literal["llama.cpp"] = "llama.cpp"
    """What quantizes and measures. Default: llama.cpp."""
    variants: list[TypeName] = Field(default_factory=list, max_length=32)
    """llama.cpp types to make, such as Q4_0, Q5_1, Q8_0, Q4_K_M. Default with a goal: Q8_0, Q5_1, Q4_K_M, Q4_0."""
    goal: Goal | None = None
    """What the selected variant must achieve. Default: the smallest that passes the gate is selected."""
    gate: Gate = Field(default_factory=Gate)
    """Bounds every variant must meet to be served. Default: none."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """How perplexity, KL divergence and top-one agreement are measured."""
    benchmark: Benchmark = Field(default_factory=Benchmark)
    """How tokens per second are measured."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """CPU and memory of each step."""
    backoff_limit: int = Field(default=3, ge=0, le=20)
    """How often a step is tried again after a fault. A bad input is never tried again. Default: 3."""
    suspend: bool = False
    """True starts no further step. Default: false."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds after which the Jobs and Pods of a finished QuantJob, and so their logs, are deleted; the QuantJob
    keeps its results. Default: they are kept as long as it is."""

    @model_validator(mode="after")
    def _check(self) -> "QuantJobSpec":
        if not self.variants and self.goal is None:
            raise ValueError(RULES[0].message)
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(RULES[1].message)
        if not self.benchmark.enabled and self.goal is not None and self.goal.needs_speed():
            raise ValueError(RULES[2].message)
        return self


class VariantStatus(Message):
    """What is known about one variant."""

    type: str
    """llama.cpp type."""
    digest: str = ""
    """Digest of the variant's manifest in the store; empty until it is made."""
    blob: str = ""
    """Digest of the GGUF file itself."""
    size_bytes: int = 0
    """Size of the GGUF file, bytes."""
    forecast_bytes: int = 0
    """Size that was forecast before the model was downloaded, bytes; 0 when there was no forecast."""
    perplexity: float | None = None
    """Perplexity on the evaluation text."""
    kl_divergence: float | None = None
    """Mean KL divergence from the unquantized model, nats per token."""
    top_one_agreement: float | None = None
    """Share of positions with the same most likely token, 0 to 1."""
    prompt_tokens_per_second: float | None = None
    """Prompt processing speed, tokens per second."""
    tokens_per_second: float | None = None
    """Generation speed of one request, tokens per second: the median of the benchmark's samples."""
    tokens_per_second_spread: float | None = None
    """Half the range of the middle half of the samples: a large one says that the machine was busy."""
    gate: Literal["", "Passed", "Failed"] = ""
    """Verdict of the gate; empty until measured."""
    reason: str = ""
    """GatePassed, GateFailed, or why the variant could not be made."""
    message: str = ""
    """The verdict in words, with figures."""


class QuantJobStatus(Message):
    """What was made, what it lost, and what was chosen."""

    observed_generation: int = 0
    """The generation of the spec that this status describes."""
    conditions: list[Condition] = Field(default_factory=list, max_length=8)
    """Ready, Succeeded, Reconciling, Stalled."""
    model_digest: str = ""
    """Digest of the model manifest that was quantized."""
    baseline: VariantStatus | None = None
    """The unquantized GGUF and its figures."""
    variants: list[VariantStatus] = Field(default_factory=list, max_length=32)
    """One entry per variant, in the order of the spec."""
    selected: str = ""
    """Type of the chosen variant."""
    selection_message: str = ""
    """Why it was chosen."""
    report_digest: str = ""
    """Digest of the report's manifest in the store."""
    report_html: str = ""
    """Digest of the HTML page."""
    tool: str = ""
    """Engine and version that made and measured the variants."""
    step_seconds: dict[str, float] = Field(default_factory=dict, max_length=128)
    """Wall time of each finished step, seconds."""
    progress: str = ""
    """What the running step does, for people."""
    results: dict[str, StepAnswer] = Field(default_factory=dict, max_length=128)
    """What finished steps of the work under way answered, as JSON, by Job: a step is not done again because somebody
    removed its Job or Pod. Empty once the work is finished, which the other fields tell then."""
    work_digest: str = ""
    """Identity of the finished work that this status tells the result of: it is not done again while that is equal."""
    store_uid: str = ""
    """Identity of the volume claim that holds what this status tells of: another claim is an empty store (cluster)."""


class QuantJob(Resource):
    """Smaller variants of a model, each measured against the original."""

    kind: Literal["QuantJob"] = "QuantJob"
    spec: QuantJobSpec
    status: QuantJobStatus = Field(default_factory=QuantJobStatus)


RULES = [
    CelRule(
        rule="size(self.variants) > 0 || has(self.goal)",
        message="spec must name at least one variant or a goal",
    ),
    CelRule(
        rule="self.variants.all(v, self.variants.exists_one(w, w == v))",
        message="spec.variants must not name a type twice",
    ),
    CelRule(
        rule="self.benchmark.enabled || !has(self.goal) || "
        "(self.goal.prefer != 'fastest' && !has(self.goal.minTokensPerSecond))",
        message="spec.goal asks for speed, which is not measured while spec.benchmark.enabled is false",
    ),
    CelRule(
        rule="self.modelRef == oldSelf.modelRef",
        message="spec.modelRef is immutable: create another QuantJob for another model",
    ),
]

INFO = ResourceInfo(
    kind="QuantJob",
    plural="quantjobs",
    short_names=["qj"],
    spec=QuantJobSpec,
    status=QuantJobStatus,
    rules=RULES,
    columns=[
        PrinterColumn(name="Ready", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Reason", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn(name="Model", json_path=".spec.modelRef.name"),
        PrinterColumn(name="Selected", json_path=".status.selected"),
        PrinterColumn(name="Progress", json_path=".status.progress", priority=1),
        PrinterColumn(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ],
)
