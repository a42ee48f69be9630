"""InferenceService: serves a model or a variant behind an OpenAI-compatible address."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slm_contract.base import Message
from slm_operator.api.engine_args import FORBIDDEN_ARGS, PRESET_ENDINGS, VLLM_ARGS, check_argument
from slm_operator.api.meta import (
    CelRule,
    Condition,
    ModelRef,
    PrinterColumn,
    Resource,
    ResourceInfo,
    ResourceRequirements,
    Scheduling,
)

ACCELERATOR = r"^(auto|none|gpu|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$"
Argument = Annotated[str, Field(max_length=4096)]
"""Bounded, as every list and string is, so that the API server can tell what a rule over it costs at most."""
Percent = Annotated[int, Field(ge=1, le=99)]
"""Never all: what there is to compare with must answer too."""


class QuantJobRef(Message):
    """Names a QuantJob in the same namespace and, if wanted, one of its variants."""

    name: str = Field(min_length=1, max_length=253)
    """Name of the QuantJob. It may be created later."""
    variant: str = Field(default="", max_length=32)
    """Type of the variant to serve; it must have passed the gate. Default: the one the QuantJob selected."""


class Autoscaling(Message):
    """How the number of engines follows the requests that gateways hold."""

    min_replicas: int = Field(default=0, ge=0, le=1000)
    """Fewest engines. With 0 there is none while nobody asks, and the first request starts one. Default: 0."""
    max_replicas: int = Field(default=1, ge=1, le=1000)
    """Most engines. Default: 1."""
    target_in_flight: int = Field(default=0, ge=0, le=1000)
    """Requests per engine to aim at. Default: 0, which is 70 % of the slots (parallel)."""
    scale_down_delay_seconds: int = Field(default=60, ge=0, le=86400)
    """Engines stay that were needed within this time. Default: 60."""
    sleep_after_seconds: int = Field(default=0, ge=0, le=604800)
    """An engine drops its weights after this time without a request, and loads them again for the next: sooner than a
    new engine, which has to start first. llama.cpp does. Default: 0, which is never."""
    zero_after_seconds: int = Field(default=300, ge=0, le=604800)
    """With minReplicas 0, the last engine ends after this time without a request. Default: 300."""

    @model_validator(mode="after")
    def _check(self) -> "Autoscaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError(AUTOSCALING_RULE.message)
        return self


class Canary(Message):
    """How engines of a changed spec are tried on a part of the requests, judged, and taken or given up."""

    steps: list[Percent] = Field(default_factory=lambda: [5, 25, 50], min_length=1, max_length=16)
    """Percentages of the requests that go to the canary, one after the other, ascending. After the last all engines
    are replaced. Default: 5, 25, 50."""
    step_seconds: int = Field(default=60, ge=0, le=86400)
    """Least time of a step. Default: 60."""
    min_requests: int = Field(default=20, ge=1, le=1000000)
    """Answers of the canary, and as many of the other engines, before a step is judged. Default: 20."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of its requests that the canary may fail more than the other engines do. Default: 0.01."""
    max_latency_increase: float = Field(default=0.25, ge=0, le=100)
    """Relative increase of the time to the first token, and of the time per token, streamed or not. Default: 0.25."""
    max_top_one_loss: float | None = Field(default=None, ge=0, le=1)
    """Most that the share of tokens may fall on which the variant and its original agree, as the QuantJob measured it;
    a variant beyond it gets no request. Default: no bound."""

    @model_validator(mode="after")
    def _check(self) -> "Canary":
        if self.steps != sorted(set(self.steps)):
            raise ValueError(CANARY_RULE.message)
        return self


class Rollout(Message):
    """How a change reaches the engines."""

    canary: Canary | None = None
    """Try a change on a part of the requests first. Default: engines are replaced one after the other."""


class Speculative(Message):
    """A small draft model proposes tokens, of which the served model keeps those that it would have written itself."""

    draft_model_ref: ModelRef
    """SLMModel that proposes them, in the same vocabulary as what is served."""
    max_draft_tokens: int = Field(default=3, ge=1, le=16)
    """Most tokens that it proposes at a time. Default: 3, as llama.cpp has it."""


class Adapter(Message):
    """A LoRA adapter that is served beside the model."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    """What requests call it by, after the service's name: service:name. A DNS label, and not latest."""
    model_ref: ModelRef
    """SLMModel that is a LoRA adapter of what is served."""


class InferenceServiceSpec(Scheduling):
    """What to serve, and how."""

    model_ref: ModelRef | None = None
    """Serve the unquantized SLMModel of this name. Exactly one of modelRef and quantJobRef."""
    quant_job_ref: QuantJobRef | None = None
    """Serve a variant of this QuantJob."""
    runtime: str = Field(default="auto", min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    """Engine: llama.cpp, vllm, or another that whoever runs the operator has set up. auto chooses by format and
    hardware: vllm for safetensors on GPUs, else llama.cpp. Default: auto."""
    accelerator: str = Field(default="auto", max_length=128, pattern=ACCELERATOR)
    """What engines compute on: auto (GPUs where the model fits, else CPUs), none (CPUs), gpu (any that fits), the
    resource that their pods ask for, such as nvidia.com/gpu, nvidia.com/mig-3g.40gb or amd.com/gpu, or the DeviceClass
    that they claim, such as deviceclass/gpu.nvidia.com. Not looked at on the local backend, where an engine finds the
    machine's GPUs itself. Default: auto."""
    tensor_parallel_size: int = Field(default=0, ge=0, le=64)
    """GPUs of one node that one engine is split over. Default: 0, which is the fewest that have the memory."""
    task: Literal["generate", "embed", "rerank"] = "generate"
    """What the model is for: text, vectors (/v1/embeddings) or the order of documents (/v1/rerank). An engine does one
    of them. Default: generate."""
    speculative: Speculative | None = None
    """Write the same text faster with the help of a draft model, on llama.cpp or vllm. Default: none."""
    projector_ref: ModelRef | None = None
    """SLMModel of the GGUF file (mmproj) with which llama.cpp reads the images or the sound that requests bring.
    Default: none, and the model reads text alone."""
    adapters: list[Adapter] = Field(default_factory=list, max_length=16)
    """LoRA adapters that are served beside the model; each request picks one, or none. Default: none."""
    replicas: int = Field(default=1, ge=0, le=1000)
    """Number of engines. 0 stops the service; any other is not looked at with autoscaling. Default: 1."""
    autoscaling: Autoscaling | None = None
    """Let demand decide on the number of engines. Default: replicas decides."""
    rollout: Rollout | None = None
    """How a change of variant, image, arguments or resources reaches the engines. Default: one engine after the
    other."""
    context_size: int = Field(default=4096, ge=64, le=1048576)
    """Tokens of context of each slot. Default: 4096, and never more than the model was made for."""
    parallel: int = Field(default=4, ge=1, le=256)
    """Requests one engine serves at the same time (slots). Default: 4."""
    port: int = Field(default=0, ge=0, le=65535)
    """Local port of the stable address (local backend). Default 0: a free one, kept from then on."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """CPU and memory of one engine. Default: memory from weights, context and slots."""
    suspend: bool = False
    """True starts, changes and stops nothing: engines that answer go on as they are. Default: false."""
    extra_args: list[Argument] = Field(default_factory=list, max_length=64)
    """Further arguments of the engine, appended as they are; those that the operator sets itself and those
    that open files or tools to clients are refused. Default: none."""

    @model_validator(mode="after")
    def _check(self) -> "InferenceServiceSpec":
        if (self.model_ref is None) == (self.quant_job_ref is None):
            raise ValueError(RULES[0].message)
        accompanied = self.speculative is not None or self.projector_ref is not None
        if self.projector_ref is not None and self.runtime not in ("auto", "llama.cpp"):
            raise ValueError(PROJECTOR_RULE.message)
        if self.speculative is not None and self.runtime not in ("auto", "llama.cpp", "vllm"):
            raise ValueError(SPECULATIVE_RULE.message)
        if accompanied and self.task != "generate":
            raise ValueError(COMPANION_TASK_RULE.message)
        self._check_adapters()
        if self.extra_args and self.runtime not in ("auto", "llama.cpp", "vllm"):
            raise ValueError(ARGS_RULE.message)
        for argument in self.extra_args:
            check_argument(argument, self.runtime)
        return self

    def _check_adapters(self) -> None:
        names = [each.name for each in self.adapters]
        if self.adapters and self.runtime not in ("auto", "llama.cpp", "vllm"):
            raise ValueError(ADAPTERS_RULE.message)
        if self.adapters and self.task != "generate":
            raise ValueError(ADAPTERS_TASK_RULE.message)
        if len(set(names)) != len(names) or "latest" in names:
            raise ValueError(ADAPTER_NAMES_RULE.message)
        if self.adapters and any(argument.split("=", 1)[0] in CACHE_ARGS for argument in self.extra_args):
            raise ValueError(ADAPTERS_CACHE_RULE.message)


class AcceleratorStatus(Message):
    """What an engine computes on, and why."""

    resource: str = ""
    """Resource that its pod asks for, such as nvidia.com/gpu; empty for CPUs, and for GPUs that it claims."""
    device_class: str = ""
    """DeviceClass of what its pod claims, such as gpu.nvidia.com."""
    partition: str = ""
    """MIG profile or partition mode of each, such as 3g.40gb; empty for whole devices."""
    vendor: str = ""
    """NVIDIA, AMD or Intel; empty for CPUs."""
    count: int = 0
    """GPUs of each engine; 0 on CPUs."""
    shared_by: int = 1
    """Pods that share each of them, by time-slicing or MPS."""
    memory_bytes: int = 0
    """Memory that the engine takes of each of them, bytes; 0 where nobody knows what they have."""
    memory_label: str = ""
    """Label of nodes by which those whose GPUs have it are told, where one is published."""
    message: str = ""
    """Why these."""


class CanaryStatus(Message):
    """A change that is being tried, taken, or was given up."""

    state: Literal["Running", "Promoting", "RolledBack"]
    """Running: it is judged. Promoting: it passed, and all engines follow. RolledBack: it is not tried again."""
    template: str = ""
    """Identity of what is tried: another one begins anew."""
    variant: str = ""
    """Type that its engines serve."""
    digest: str = ""
    """Digest of the file that its engines serve."""
    percent: int = 0
    """Share of the requests that gateways send to it; 0 until its engines answer."""
    since: str = ""
    """When the step began, RFC 3339 UTC."""
    requests: int = 0
    """What it answered or failed in this step."""
    errors: int = 0
    """What it failed of these."""
    message: str = ""
    """What came of it, with figures."""


class CompanionStatus(Message):
    """A further model that engines load beside what they serve."""

    role: str
    """What it is for: draft, projector, or adapter/NAME."""
    digest: str = ""
    """Digest of the GGUF file that is loaded, or of the manifest of a model whose files are loaded as they came."""
    size_bytes: int = 0
    """Its size, bytes."""
    work_digest: str = ""
    """Identity of the steps that made and checked the file: they are not done again while that is equal."""
    store_uid: str = ""
    """Identity of the volume claim that holds it (cluster)."""


class InferenceServiceStatus(Message):
    """What is served, where, and why like that."""

    observed_generation: int = 0
    """The generation of the spec that this status describes."""
    conditions: list[Condition] = Field(default_factory=list, max_length=8)
    """Ready, Reconciling, Stalled."""
    url: str = ""
    """Base address; OpenAI clients append /v1."""
    runtime: str = ""
    """Engine that was chosen."""
    runtime_message: str = ""
    """Why it was chosen."""
    accelerator: AcceleratorStatus | None = None
    """What engines compute on; absent while that is not known."""
    choice_digest: str = ""
    """Identity of what runtime and accelerator were chosen for: the choice stands while that is equal."""
    variant: str = ""
    """Type that is served."""
    digest: str = ""
    """Digest of the GGUF file that is served, or of the manifest of a model whose files are served as they came."""
    size_bytes: int = 0
    """Size of the weights among them, bytes."""
    memory_bytes: int = 0
    """Memory one engine is expected to need: weights, KV cache and compute buffers, bytes."""
    context_size: int = 0
    """Tokens of context of each slot: spec.contextSize, or what the model was made for where that is less."""
    companions: list[CompanionStatus] = Field(default_factory=list, max_length=32)
    """Further models that are loaded beside it."""
    replicas: int = 0
    """Engines that exist."""
    ready_replicas: int = 0
    """Engines that answer."""
    selector: str = ""
    """Label selector of the engines, for the scale subresource."""
    canary: CanaryStatus | None = None
    """The change that is being tried, or was given up."""
    work_digest: str = ""
    """Identity of the conversion that made the file: it is not done again while that is equal."""
    store_uid: str = ""
    """Identity of the volume claim that holds what this status tells of: another claim is an empty store (cluster)."""


class InferenceService(Resource):
    """An OpenAI-compatible address in front of engines that serve one model."""

    kind: Literal["InferenceService"] = "InferenceService"
    spec: InferenceServiceSpec
    status: InferenceServiceStatus = Field(default_factory=InferenceServiceStatus)


VLLM_RULE = CelRule(
    rule="self.runtime != 'vllm' || self.extraArgs.all(a, !a.matches('^-[^0-9]') || a.split('=')[0] in ["
    + ", ".join(f"'{name}'" for name in sorted(VLLM_ARGS))
    + "])",
    message="spec.extraArgs holds an argument that is none of vLLM's that are known as safe",
)
ARGS_RULE = CelRule(
    rule="self.runtime in ['auto', 'llama.cpp', 'vllm'] || self.extraArgs.size() == 0",
    message="spec.extraArgs are for llama.cpp and vllm: those of another runtime stand where it is set up",
)
PROJECTOR_RULE = CelRule(
    rule="!has(self.projectorRef) || self.runtime in ['auto', 'llama.cpp']",
    message="spec.projectorRef is for llama.cpp alone: set spec.runtime to llama.cpp or auto",
)
SPECULATIVE_RULE = CelRule(
    rule="!has(self.speculative) || self.runtime in ['auto', 'llama.cpp', 'vllm']",
    message="spec.speculative is for llama.cpp and vllm: set spec.runtime to one of them, or to auto",
)
COMPANION_TASK_RULE = CelRule(
    rule="!(has(self.speculative) || has(self.projectorRef)) || self.task == 'generate'",
    message="spec.speculative and spec.projectorRef help to write text: leave them out, or set spec.task to generate",
)
CACHE_ARGS = ("-cram", "--cache-ram")
"""Of llama.cpp: how many prompts it remembers outside of its slots, whichever adapter they were computed with."""
ADAPTERS_RULE = CelRule(
    rule="self.adapters.size() == 0 || self.runtime in ['auto', 'llama.cpp', 'vllm']",
    message="spec.adapters are for llama.cpp and vllm: set spec.runtime to one of them, or to auto",
)
ADAPTERS_TASK_RULE = CelRule(
    rule="self.adapters.size() == 0 || self.task == 'generate'",
    message="spec.adapters change what a model writes: leave them out, or set spec.task to generate",
)
ADAPTER_NAMES_RULE = CelRule(
    rule="self.adapters.all(a, a.name != 'latest' && self.adapters.exists_one(b, b.name == a.name))",
    message="spec.adapters must have different names, and none may be latest",
)
ADAPTERS_CACHE_RULE = CelRule(
    rule="self.adapters.size() == 0 || !self.extraArgs.exists(a, a.split('=')[0] in ["
    + ", ".join(f"'{name}'" for name in CACHE_ARGS)
    + "])",
    message="spec.extraArgs must not hold --cache-ram beside spec.adapters: it would mix answers of different adapters",
)
AUTOSCALING_RULE = CelRule(
    rule="!has(self.autoscaling) || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas",
    message="spec.autoscaling.minReplicas must not be above maxReplicas",
)
CANARY_RULE = CelRule(
    rule="!has(self.rollout) || !has(self.rollout.canary) || (self.rollout.canary.steps.isSorted() && "
    "self.rollout.canary.steps.all(s, self.rollout.canary.steps.exists_one(t, t == s)))",
    message="spec.rollout.canary.steps must ascend",
)
RULES = [
    CelRule(
        rule="has(self.modelRef) != has(self.quantJobRef)",
        message="spec must name exactly one of modelRef and quantJobRef",
    ),
    CelRule(
        # llama-server takes _ for - in every name: a second spelling would go round the list below.
        rule="self.extraArgs.all(a, !a.matches('^--[^=]*_'))",
        message="spec.extraArgs holds an argument with _ in its name: write - instead",
    ),
    CelRule(
        rule="self.extraArgs.all(a, !(a.split('=')[0] in ["
        + ", ".join(f"'{name}'" for name in sorted(FORBIDDEN_ARGS))
        + "] || a.matches('^-.*("
        + "|".join(PRESET_ENDINGS)
        + ")(=.*)?$')))",
        message="spec.extraArgs holds an argument that the operator sets, or that is unsafe",
    ),
    VLLM_RULE,
    ARGS_RULE,
    PROJECTOR_RULE,
    SPECULATIVE_RULE,
    COMPANION_TASK_RULE,
    ADAPTERS_RULE,
    ADAPTERS_TASK_RULE,
    ADAPTER_NAMES_RULE,
    ADAPTERS_CACHE_RULE,
    AUTOSCALING_RULE,
    CANARY_RULE,
]

INFO = ResourceInfo(
    kind="InferenceService",
    plural="inferenceservices",
    short_names=["slmsvc"],
    spec=InferenceServiceSpec,
    status=InferenceServiceStatus,
    rules=RULES,
    columns=[
        PrinterColumn(name="Ready", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Reason", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn(name="Variant", json_path=".status.variant"),
        PrinterColumn(name="URL", json_path=".status.url"),
        PrinterColumn(name="Replicas", json_path=".status.readyReplicas", type="integer"),
        PrinterColumn(name="Runtime", json_path=".status.runtime", priority=1),
        PrinterColumn(name="Accelerator", json_path=".status.accelerator.resource", priority=1),
        PrinterColumn(name="DeviceClass", json_path=".status.accelerator.deviceClass", priority=1),
        PrinterColumn(name="Digest", json_path=".status.digest", priority=1),
        PrinterColumn(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ],
    scale=True,
)
