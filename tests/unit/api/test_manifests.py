"""Which manifests are accepted, and what is said about those that are not."""

from collections.abc import Iterator
from typing import Any

import pytest

from slm_operator.api.engine_args import FORBIDDEN_ARGS
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import INFOS, KINDS, parse_resource, resolve_kind
from slm_operator.api.sentences import PATTERNS
from slm_operator.api.slmmodel import SLMModel
from slm_operator.errors import InvalidManifest

Spec = dict[str, Any]
HUB = {"huggingFace": {"repo": "owner/name"}}
REF = {"modelRef": {"name": "m"}}
JOB = {**REF, "variants": ["Q4_0"]}
DRAFT = {"draftModelRef": {"name": "d"}}
BESIDE: list[Spec] = [{"speculative": DRAFT}, {"projectorRef": {"name": "p"}}]
DIGEST = "sha256:" + "0a" * 32

LORA = {"name": "french", "modelRef": {"name": "f"}}


def manifest(kind: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "slm.dev/v1alpha1", "kind": kind, "metadata": {"name": "a", **metadata}, "spec": spec}


def hub(**more: Any) -> Spec:
    return {"source": {"huggingFace": {"repo": "owner/name", **more}}}


ACCEPTED: list[tuple[str, Spec]] = [
    ("SLMModel", {"source": HUB}),
    ("SLMModel", {"source": {"path": "/models/tiny"}}),
    ("SLMModel", hub(revision="refs/pr/1", allowPatterns=["*.gguf"], ignorePatterns=["*.bin"])),
    ("SLMModel", hub(endpoint="https://hub.example:8443/base")),
    ("SLMModel", hub(endpoint="")),
    ("SLMModel", hub(tokenSecretRef={"name": "hub"})),
    ("SLMModel", hub(tokenSecretRef={"name": "hub", "key": "password"})),
    ("SLMModel", {"source": HUB, "license": {"allow": ["apache-2.0", "MIT"]}}),
    ("SLMModel", {"source": HUB, "pin": {"revision": "0" * 40, "files": {"model.safetensors": DIGEST}}}),
    ("SLMModel", {"source": HUB, "suspend": True}),
    ("QuantJob", JOB),
    ("QuantJob", {**REF, "goal": {}}),
    ("QuantJob", {**REF, "goal": {"maxMemory": "2Gi", "prefer": "closest"}}),
    ("QuantJob", {**REF, "goal": {"maxMemory": 2000000000, "minTokensPerSecond": 20}}),
    ("QuantJob", {**JOB, "gate": {"maxKLDivergence": 0, "maxPerplexityIncrease": 0.5, "minTopOneAgreement": 1}}),
    ("QuantJob", {**JOB, "evaluation": {"text": "/t.txt", "contextSize": 64, "chunks": 2}}),
    ("QuantJob", {**JOB, "benchmark": {"enabled": False}}),
    ("QuantJob", {**JOB, "resources": {"requests": {"cpu": 2}, "limits": {"cpu": "500m", "memory": "1.5Gi"}}}),
    ("QuantJob", {**JOB, "backoffLimit": 0, "suspend": True, "toolchain": "llama.cpp"}),
    ("InferenceService", REF),
    ("InferenceService", {"quantJobRef": {"name": "j"}}),
    ("InferenceService", {"quantJobRef": {"name": "j", "variant": "Q4_K_M"}, "runtime": "llama.cpp"}),
    ("InferenceService", {**REF, "replicas": 0}),
    ("InferenceService", {**REF, "autoscaling": {}}),
    ("InferenceService", {**REF, "autoscaling": {"minReplicas": 2, "maxReplicas": 2, "targetInFlight": 3}}),
    ("InferenceService", {**REF, "rollout": {}}),
    ("InferenceService", {**REF, "rollout": {"canary": {}}}),
    ("InferenceService", {**REF, "rollout": {"canary": {"steps": [1, 99], "stepSeconds": 0, "maxTopOneLoss": 0}}}),
    ("InferenceService", {**REF, "contextSize": 1048576, "parallel": 256, "port": 65535}),
    ("InferenceService", {**REF, "speculative": DRAFT}),
    ("InferenceService", {**REF, "projectorRef": {"name": "p"}, "speculative": DRAFT}),
    ("InferenceService", {**REF, "speculative": {**DRAFT, "maxDraftTokens": 16}, "runtime": "llama.cpp"}),
    ("InferenceService", {**REF, "adapters": [LORA], "runtime": "llama.cpp", "extraArgs": ["--temp", "0.2"]}),
    ("InferenceService", {**REF, "adapters": [{**LORA, "name": f"a-{number}"} for number in range(16)]}),
    ("InferenceService", {**REF, "extraArgs": ["--temp", "0.2", "--seed=1", "--cache-ram", "64"]}),
    ("InferenceService", {**REF, "extraArgs": ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]}),
]

REFUSED: list[tuple[str, Spec, str]] = [
    ("SLMModel", {}, "spec.source is required"),
    ("SLMModel", {"source": {}}, "spec.source must name exactly one"),
    ("SLMModel", {"source": {**HUB, "path": "/m"}}, "spec.source must name exactly one of huggingFace and path"),
    (
        "SLMModel",
        {"source": {"path": "models"}},
        "spec.source.path must be an absolute path: one that begins with /, not 'models'",
    ),
    ("SLMModel", {"source": {"path": ""}}, "spec.source.path must not be empty"),
    ("SLMModel", hub(repo="name"), "spec.source.huggingFace.repo must be written as owner/name, not 'name'"),
    ("SLMModel", hub(repo="../name"), "huggingFace.repo must be written as owner/name, not '../name'"),
    ("SLMModel", hub(repo="o/n/x"), "huggingFace.repo must be written as owner/name, not 'o/n/x'"),
    ("SLMModel", hub(revision=""), "spec.source.huggingFace.revision must not be empty"),
    (
        "SLMModel",
        hub(endpoint="ftp://hub"),
        "huggingFace.endpoint must begin with http:// or https://, not 'ftp://hub'",
    ),
    ("SLMModel", hub(allowPatterns="*"), "spec.source.huggingFace.allowPatterns must be a list, not '*'"),
    ("SLMModel", hub(allowPatterns=["*"] * 65), "allowPatterns must have at most 64 entries, not 65"),
    ("SLMModel", hub(allowPatterns=[""]), "allowPatterns.0 must not be empty"),
    ("SLMModel", hub(tokenSecretRef={"key": "token"}), "tokenSecretRef.name is required"),
    ("SLMModel", hub(token="hf_x"), "spec.source.huggingFace.token is no known field"),
    ("SLMModel", {"source": HUB, "licence": {}}, "spec.licence is no known field: did you mean license?"),
    ("SLMModel", {"source": HUB, "pin": {"files": {"a": "sha1:0"}}}, "spec.pin.files.a must be sha256: and 64 hexa"),
    ("QuantJob", {"variants": ["Q4_0"]}, "spec.modelRef is required"),
    ("QuantJob", REF, "spec must name at least one variant or a goal"),
    ("QuantJob", {**REF, "variants": ["Q4_0", "Q4_0"]}, "spec.variants must not name a type twice"),
    ("QuantJob", {**REF, "variants": [""]}, "spec.variants.0 must not be empty"),
    ("QuantJob", {**REF, "variants": ["Q"] * 33}, "spec.variants must have at most 32 entries, not 33"),
    ("QuantJob", {**JOB, "toolchain": "mlx"}, "spec.toolchain must be llama.cpp, not 'mlx'"),
    (
        "QuantJob",
        {**JOB, "gate": {"maxKLDivergence": -1}},
        "spec.gate.maxKLDivergence must be 0 or more, not -1",
    ),
    (
        "QuantJob",
        {**JOB, "gate": {"minTopOneAgreement": 95}},
        "spec.gate.minTopOneAgreement must be 1 or less, not 95",
    ),
    (
        "QuantJob",
        {**JOB, "goal": {"prefer": "best"}},
        "spec.goal.prefer must be smallest, fastest or closest, not 'best'",
    ),
    (
        "QuantJob",
        {**JOB, "goal": {"maxMemory": "2 GB"}},
        "spec.goal.maxMemory must be a quantity such as 500m, 2, 1.5Gi",
    ),
    ("QuantJob", {**JOB, "resources": {"limits": {"cpu": "-1"}}}, "spec.resources.limits.cpu must be a quantity"),
    (
        "QuantJob",
        {**JOB, "resources": {"limits": {"cpu": 0.5}}},
        "spec.resources.limits.cpu must be text, not 0.5: put it in quotes, '0.5'",
    ),
    ("QuantJob", {**JOB, "resources": {"limits": {"cpu": True}}}, "spec.resources.limits.cpu must be text, not true"),
    (
        "QuantJob",
        {**JOB, "evaluation": {"chunks": 1}},
        "spec.evaluation.chunks must be 2 or more, not 1",
    ),
    (
        "QuantJob",
        {**JOB, "benchmark": {"enabled": False}, "goal": {"prefer": "fastest"}},
        "spec.goal asks for speed, which is not measured while spec.benchmark.enabled is false",
    ),
    ("QuantJob", {**JOB, "benchmark": {"repetitions": 0}}, "spec.benchmark.repetitions must be 1 or more, not 0"),
    ("QuantJob", {**JOB, "backoffLimit": 21}, "spec.backoffLimit must be 20 or less, not 21"),
    ("QuantJob", {**JOB, "suspend": "yes"}, "spec.suspend must be true or false, not 'yes'"),
    ("InferenceService", {}, "spec must name exactly one of modelRef and quantJobRef"),
    (
        "InferenceService",
        {**REF, "quantJobRef": {"name": "j"}},
        "spec must name exactly one of modelRef and quantJobRef",
    ),
    ("InferenceService", {"modelRef": {"name": ""}}, "spec.modelRef.name must not be empty"),
    ("InferenceService", {"quantJobRef": {"variant": "Q4_0"}}, "spec.quantJobRef.name is required"),
    (
        "InferenceService",
        {**REF, "runtime": "SGLang"},
        "spec.runtime must consist of lower-case letters, digits, - and .",
    ),
    (
        "InferenceService",
        {**REF, "runtime": "sglang", "extraArgs": ["-x"]},
        "spec.extraArgs are for llama.cpp and vllm",
    ),
    *(
        (
            "InferenceService",
            {**REF, "runtime": runtime, "projectorRef": {"name": "p"}},
            "spec.projectorRef is for llama.cpp",
        )
        for runtime in ("vllm", "sglang")
    ),
    (
        "InferenceService",
        {**REF, "runtime": "sglang", "speculative": {"draftModelRef": {"name": "d"}}},
        "spec.speculative is for llama.cpp and vllm: set spec.runtime to one of them, or to auto",
    ),
    *(
        (
            "InferenceService",
            {**REF, "task": task, **beside},
            "spec.speculative and spec.projectorRef help to write text: leave them out, or set spec.task to generate",
        )
        for task in ("embed", "rerank")
        for beside in BESIDE
    ),
    ("InferenceService", {**REF, "speculative": {}}, "spec.speculative.draftModelRef is required"),
    ("InferenceService", {**REF, "runtime": "sglang", "adapters": [LORA]}, "spec.adapters are for llama.cpp and vllm"),
    *(
        ("InferenceService", {**REF, "task": task, "adapters": [LORA]}, "spec.adapters change what a model writes")
        for task in ("embed", "rerank")
    ),
    *(
        ("InferenceService", {**REF, "adapters": adapters}, "spec.adapters must have different names, and none may be")
        for adapters in ([LORA, LORA], [{**LORA, "name": "latest"}])
    ),
    *(
        (
            "InferenceService",
            {**REF, "adapters": [LORA], "extraArgs": words},
            "spec.extraArgs must not hold --cache-ram",
        )
        for words in (["--cache-ram", "64"], ["--cache-ram=64"], ["-cram", "64"])
    ),
    ("InferenceService", {**REF, "adapters": [{"name": "a"}]}, "spec.adapters.0.modelRef is required"),
    (
        "InferenceService",
        {**REF, "adapters": [{**LORA, "name": f"a-{number}"} for number in range(17)]},
        "spec.adapters must have at most 16 entries, not 17",
    ),
    (
        "InferenceService",
        {**REF, "speculative": {**DRAFT, "maxDraftTokens": 17}},
        "spec.speculative.maxDraftTokens must be 16 or less, not 17",
    ),
    ("InferenceService", {**REF, "accelerator": "tpu"}, "spec.accelerator must be auto, none, gpu, or the resource"),
    ("InferenceService", {**REF, "tensorParallelSize": 65}, "spec.tensorParallelSize must be 64 or less, not 65"),
    (
        "InferenceService",
        {**REF, "runtime": "vllm", "extraArgs": ["--dtype", "half", "--trust-remote-code"]},
        "spec.extraArgs must not hold --trust-remote-code: it is none of vLLM's that are known as safe",
    ),
    (
        "InferenceService",
        {**REF, "runtime": "vllm", "extraArgs": ["--trust_remote_code"]},
        "spec.extraArgs must not hold --trust_remote_code: write --trust-remote-code",
    ),
    (
        "InferenceService",
        {**REF, "runtime": "vllm", "extraArgs": ["-O3"]},
        "spec.extraArgs must not hold -O3: it is none of vLLM's that are known as safe",
    ),
    ("InferenceService", {**REF, "replicas": -1}, "spec.replicas must be 0 or more, not -1"),
    ("InferenceService", {**REF, "replicas": "2"}, "spec.replicas must be a whole number, not '2'"),
    ("InferenceService", {**REF, "replicas": 1.5}, "spec.replicas must be a whole number, not 1.5"),
    (
        "InferenceService",
        {**REF, "autoscaling": {"minReplicas": 2}},
        "spec.autoscaling.minReplicas must not be above maxReplicas",
    ),
    (
        "InferenceService",
        {**REF, "autoscaling": {"maxReplicas": 0}},
        "spec.autoscaling.maxReplicas must be 1 or more, not 0",
    ),
    *(
        (
            "InferenceService",
            {**REF, "rollout": {"canary": {"steps": steps}}},
            "spec.rollout.canary.steps must ascend",
        )
        for steps in ([50, 5], [5, 5])
    ),
    (
        "InferenceService",
        {**REF, "rollout": {"canary": {"steps": [100]}}},
        "spec.rollout.canary.steps.0 must be 99 or less, not 100",
    ),
    ("InferenceService", {**REF, "contextSize": 63}, "spec.contextSize must be 64 or more, not 63"),
    ("InferenceService", {**REF, "parallel": 0}, "spec.parallel must be 1 or more, not 0"),
    ("InferenceService", {**REF, "port": 65536}, "spec.port must be 65535 or less, not 65536"),
    ("InferenceService", {**REF, "extraArgs": ["--host", "0.0.0.0"]}, "spec.extraArgs must not hold --host"),
    (
        "InferenceService",
        {**REF, "variant": "Q4_0"},
        "spec.variant is no known field: did you mean spec.quantJobRef.variant?",
    ),
    ("InferenceService", {**REF, "status": {}}, "spec.status is no known field"),
    (
        "InferenceService",
        {**REF, "autoscaling": {"min": 0}},
        "spec.autoscaling.min is no known field: did you mean minReplicas?",
    ),
    ("InferenceService", {"model_ref": {"name": "m"}}, "spec.model_ref is no known field: did you mean modelRef?"),
    ("InferenceService", {**REF, "extraArgs": ["--gpt-oss-20b-default"]}, "must not hold --gpt-oss-20b-default"),
    ("InferenceService", {**REF, "extraArgs": ["--path=/etc"]}, "spec.extraArgs must not hold --path=/etc"),
    # llama-server reads _ as -.
    (
        "InferenceService",
        {**REF, "extraArgs": ["--media_path", "/"]},
        "spec.extraArgs must not hold --media_path: write",
    ),
    ("InferenceService", {**REF, "extraArgs": ["--mcp_servers_json={}"]}, "must not hold --mcp_servers_json={}: write"),
    ("InferenceService", {**REF, "extraArgs": ["--x_default"]}, "spec.extraArgs must not hold --x_default: write"),
    (
        "InferenceService",
        {**REF, "extraArgs": ["a" * 4097]},
        "spec.extraArgs.0 must have at most 4096 characters, not 4097",
    ),
]


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_an_accepted_manifest_says_the_same_after_a_round_trip(kind: str, spec: Spec) -> None:
    parsed = parse_resource(manifest(kind, spec))
    again = parse_resource(parsed.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert again == parsed
    assert parsed.kind == kind


@pytest.mark.parametrize(("kind", "spec", "message"), REFUSED)
def test_a_refused_manifest_names_the_field_and_the_rule(kind: str, spec: Spec, message: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        parse_resource(manifest(kind, spec))
    assert message in str(refused.value)
    assert refused.value.reason == "InvalidSpec"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "Model"},
            "kind must be one of SLMModel, QuantJob, InferenceService, not 'Model': did you mean SLMModel?",
        ),
        ({"kind": ["SLMModel"]}, "kind must be one of"),
        ({"kind": None}, "kind must be one of"),
        ({"apiVersion": "slm.dev/v1"}, "apiVersion must be slm.dev/v1alpha1, not 'slm.dev/v1'"),
        ({"metadata": {}}, "metadata.name is required"),
        ({"metadata": {"name": "Upper"}}, "metadata.name must consist of lower-case letters, digits, - and .,"),
        ({"metadata": {"name": "a" * 53}}, "metadata.name must have at most 52 characters, not 53"),
        ({"metadata": {"name": "a-"}}, "with a letter or digit at both ends, not 'a-'"),
        (
            {"metadata": {"name": "a", "namespace": "../../x"}},
            "metadata.namespace must consist of lower-case letters, digits and -",
        ),
        (
            {"metadata": {"name": "a", "namespace": "n" * 64}},
            "metadata.namespace must have at most 63 characters, not 64",
        ),
        ({"spec": None}, "spec must be a mapping, not nothing"),
        ({"extra": 1}, "extra is no known field"),
    ],
)
def test_what_stands_around_the_spec_is_checked_too(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        parse_resource({**manifest("SLMModel", {"source": HUB}), **changes})
    assert message in str(refused.value)


def find_patterns(schema: Any) -> Iterator[str]:
    """Every pattern that a field of a resource has."""
    values = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for value in values:
        yield from find_patterns(value)
    if isinstance(schema, dict) and isinstance(schema.get("pattern"), str):
        yield schema["pattern"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_is_explained_in_words(kind: str) -> None:
    patterns = set(find_patterns(KINDS[kind].model_json_schema()))
    assert patterns
    assert patterns <= PATTERNS.keys()


def test_metadata_that_others_write_passes_through() -> None:
    parsed = parse_resource(manifest("SLMModel", {"source": HUB}, ownerReferences=[{"uid": "x"}], generation=3))
    assert parsed.metadata.generation == 3
    assert parsed.model_dump(by_alias=True)["metadata"]["ownerReferences"] == [{"uid": "x"}]


def test_every_broken_rule_is_told_at_once() -> None:
    with pytest.raises(InvalidManifest) as refused:
        parse_resource(manifest("InferenceService", {**REF, "parallel": 0, "port": -1}))
    assert str(refused.value).count("; ") == 1
    assert "spec.parallel" in str(refused.value)
    assert "spec.port" in str(refused.value)


def test_defaults_are_those_the_reference_states() -> None:
    service = parse_resource(manifest("InferenceService", REF))
    job = parse_resource(manifest("QuantJob", JOB))
    model = parse_resource(manifest("SLMModel", {"source": HUB}))
    assert isinstance(service, InferenceService)
    assert isinstance(job, QuantJob)
    assert isinstance(model, SLMModel)
    assert (service.spec.replicas, service.spec.context_size, service.spec.parallel) == (1, 4096, 4)
    assert (job.spec.evaluation.context_size, job.spec.evaluation.chunks, job.spec.backoff_limit) == (512, 16, 3)
    assert model.spec.source.hugging_face is not None
    assert model.spec.source.hugging_face.revision == "main"


def test_a_whole_number_is_a_quantity() -> None:
    job = parse_resource(manifest("QuantJob", {**JOB, "resources": {"limits": {"cpu": 2}}}))
    assert isinstance(job, QuantJob)
    assert job.spec.resources.limits == {"cpu": "2"}


@pytest.mark.parametrize("argument", sorted(FORBIDDEN_ARGS))
def test_every_argument_of_ours_is_refused_alone_and_with_a_value(argument: str) -> None:
    for form in (argument, f"{argument}=x"):
        with pytest.raises(InvalidManifest, match="the operator sets it, or it is unsafe"):
            parse_resource(manifest("InferenceService", {**REF, "extraArgs": [form]}))


def test_a_status_of_a_newer_version_is_read_without_what_is_new() -> None:
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "NewReason",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
        "newField": 1,
    }
    status = {"observedGeneration": 1, "newField": {"a": 1}, "conditions": [condition]}
    job = parse_resource({**manifest("QuantJob", JOB), "status": status})
    assert job.status.observed_generation == 1
    assert job.status.conditions[0].reason == "NewReason"
    with pytest.raises(InvalidManifest, match=r"spec\.newField is no known field"):
        parse_resource({**manifest("QuantJob", {**JOB, "newField": 1}), "status": status})


@pytest.mark.parametrize("kind", INFOS)
def test_every_name_of_a_kind_leads_to_it(kind: str) -> None:
    info = INFOS[kind]
    assert {resolve_kind(word) for word in (kind, kind.upper(), info.plural, *info.short_names)} == {kind}
    assert resolve_kind("pods") is None
