"""SLMModel: which weights, from where, pinned and verified."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slm_contract.base import Message
from slm_contract.results import Dimensions, ModelShape
from slm_operator.api.meta import CelRule, Condition, PrinterColumn, Resource, ResourceInfo, StepAnswer

FilePattern = Annotated[str, Field(min_length=1, max_length=256)]
LicenseName = Annotated[str, Field(min_length=1, max_length=64)]


class SecretKeyRef(Message):
    """One key of a Secret in the same namespace (local backend: the environment variable HF_TOKEN is used)."""

    name: str = Field(min_length=1, max_length=253)
    """Name of the Secret."""
    key: str = Field(default="token", max_length=253)
    """Key inside the Secret. Default: token."""


class HuggingFaceSource(Message):
    """A repository on a hub that speaks the Hugging Face protocol."""

    repo: str = Field(min_length=3, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Repository as owner/name."""
    revision: str = Field(default="main", min_length=1, max_length=200)
    """Branch, tag or commit. It is resolved to a commit once; a branch that moves is not followed. Default: main."""
    allow_patterns: list[FilePattern] = Field(default_factory=list, max_length=64)
    """Shell patterns of the files to take. Default: configuration, tokenizer and safetensors (or GGUF) files."""
    ignore_patterns: list[FilePattern] = Field(default_factory=list, max_length=64)
    """Shell patterns of files to leave out, applied after allowPatterns. Default: none."""
    endpoint: str = Field(default="", max_length=2048, pattern=r"^(https?://.+)?$")
    """Base address of the hub. Default: HF_ENDPOINT of the operator, else the public hub."""
    token_secret_ref: SecretKeyRef | None = None
    """Where the access token of a gated or private repository is kept. Default: no token."""


class Source(Message):
    """Exactly one place that weights come from."""

    hugging_face: HuggingFaceSource | None = None
    """A repository on a Hugging Face hub."""
    path: str | None = Field(default=None, min_length=1, max_length=4096, pattern=r"^/")
    """Absolute path of a folder or of a GGUF file on this machine (local backend only)."""


class LicensePolicy(Message):
    """Which licences may enter the store."""

    allow: list[LicenseName] = Field(default_factory=list, max_length=64)
    """Accepted licence identifiers such as apache-2.0 or mit, in any case. Default: every licence."""


Sha256 = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9A-Fa-f]{64}$")]


class Pin(Message):
    """What is already known about the content and must hold."""

    revision: str = Field(default="", max_length=64)
    """The commit that source.revision must resolve to. Default: any."""
    files: dict[str, Sha256] = Field(default_factory=dict, max_length=256)
    """File name to its digest (sha256:hex). Default: the hub's own digests are checked."""


class SLMModelSpec(Message):
    """Which weights to trust, and where they come from."""

    source: Source
    """Where the weights come from; exactly one member. Immutable: another source is another model."""
    license: LicensePolicy = Field(default_factory=LicensePolicy)
    """Which licences are accepted, checked before the first byte of a weight is fetched."""
    pin: Pin = Field(default_factory=Pin)
    """Commit and digests that must hold."""
    suspend: bool = False
    """True stops before the next step. Default: false."""

    @model_validator(mode="after")
    def _check(self) -> "SLMModelSpec":
        given = [name for name in ("hugging_face", "path") if getattr(self.source, name) is not None]
        if len(given) != 1:
            raise ValueError(RULES[0].message)
        return self


class Forecast(Message):
    """What one quantization type will take, computed from shapes before any weight is fetched."""

    type: str = Field(max_length=32)
    """llama.cpp type name."""
    size_bytes: int
    """Exact size of the GGUF file, bytes."""
    serving_bytes: int
    """Memory to serve it with a context of 4,096 tokens and one slot, bytes."""


class SLMModelStatus(Message):
    """What was found."""

    observed_generation: int = 0
    """The generation of the spec that this status describes."""
    conditions: list[Condition] = Field(default_factory=list, max_length=8)
    """Ready, Reconciling, Stalled."""
    revision: str = ""
    """The commit that was resolved; for a path, the identity of its content."""
    digest: str = ""
    """Digest of the model's manifest in the store."""
    format: str = ""
    """gguf, or safetensors; where these are quantized, how: awq, gptq, fp8 or compressed-tensors. Or lora: an adapter
    that changes a model and is none by itself."""
    architecture: str = ""
    """Architecture as the model's configuration names it."""
    rank: int = 0
    """Rank of a LoRA adapter; 0 for a model."""
    parameters: int = 0
    """Number of weights; 0 where they are packed and nothing tells how."""
    parameter_class: str = ""
    """Nano (below 100M), Micro (from 100M), Small (from 1.5B), Medium (14B to 30B) or Large (above); empty where the
    number is not known."""
    license: str = ""
    """Licence identifier as the source states it."""
    context_length: int = 0
    """Longest context the model was made for, tokens; 0 for an adapter, and where nothing tells."""
    size_bytes: int = 0
    """Size of the files, bytes."""
    files: int = 0
    """Number of files."""
    shape: ModelShape | None = None
    """Dimensions that sizes and memory are computed from; absent for what cannot be converted, for a GGUF repository
    and for an adapter."""
    dimensions: Dimensions | None = None
    """Of a model that cannot be converted, as far as its configuration tells: memory is estimated from them."""
    conversion_message: str = ""
    """Why no GGUF can be made of the safetensors, so that only engines that load these themselves serve them and no
    QuantJob takes them; empty where it can, and for a GGUF repository."""
    forecast: list[Forecast] = Field(default_factory=list, max_length=64)
    """Exact size and serving memory per quantization type; empty where there is no shape."""
    progress: str = ""
    """What the running step does, for people."""
    results: dict[str, StepAnswer] = Field(default_factory=dict, max_length=128)
    """What finished steps of the work under way answered, as JSON, by Job: a step is not done again because somebody
    removed its Job or Pod. Empty once the work is finished, which the other fields tell then."""
    work_digest: str = ""
    """Identity of the finished work that this status tells the result of: it is not done again while that is equal."""
    store_uid: str = ""
    """Identity of the volume claim that holds what this status tells of: another claim is an empty store (cluster)."""


class SLMModel(Resource):
    """Weights that may be used: found, verified and kept in the store."""

    kind: Literal["SLMModel"] = "SLMModel"
    spec: SLMModelSpec
    status: SLMModelStatus = Field(default_factory=SLMModelStatus)


RULES = [
    CelRule(
        rule="(has(self.source.huggingFace) ? 1 : 0) + (has(self.source.path) ? 1 : 0) == 1",
        message="spec.source must name exactly one of huggingFace and path",
    ),
    CelRule(
        rule="self.source == oldSelf.source",
        message="spec.source is immutable: create another SLMModel for another source",
    ),
]

INFO = ResourceInfo(
    kind="SLMModel",
    plural="slmmodels",
    short_names=["slm"],
    spec=SLMModelSpec,
    status=SLMModelStatus,
    rules=RULES,
    columns=[
        PrinterColumn(name="Ready", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Reason", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn(name="Class", json_path=".status.parameterClass"),
        PrinterColumn(name="Parameters", json_path=".status.parameters", type="integer"),
        PrinterColumn(name="License", json_path=".status.license"),
        PrinterColumn(name="Revision", json_path=".status.revision", priority=1),
        PrinterColumn(name="Digest", json_path=".status.digest", priority=1),
        PrinterColumn(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ],
)
