"""A world for planners: applies plans to plain dictionaries and finishes Jobs as told."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from slm_contract.reasons import Reason
from slm_contract.results import (
    AcquireResult,
    AnyResult,
    ArtifactResult,
    BenchmarkResult,
    CollectResult,
    Dimensions,
    EvaluateResult,
    ModelShape,
    Outcome,
    ProjectorResult,
    ReportResult,
    ResolveResult,
    SnapshotResult,
    StepError,
    VocabularyResult,
)
from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.registry import AnyResource, parse_resource
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.canary_scene import CanaryView
from slm_operator.core.companions import list_companions
from slm_operator.core.diff import is_applied
from slm_operator.core.manifests.canary import canary_key
from slm_operator.core.manifests.metadata import LABEL_KIND, LABEL_NAME, LABEL_STEP
from slm_operator.core.placement import CPU, LLAMA_CPP, Placement, Program
from slm_operator.core.plan import Manifest, ObjectKey, Plan, key_of
from slm_operator.core.plan_inferenceservice import plan_inferenceservice
from slm_operator.core.plan_quantjob import QuantSnapshot, plan_quantjob
from slm_operator.core.plan_slmmodel import ModelSnapshot, plan_slmmodel
from slm_operator.core.service_snapshot import ServiceSnapshot
from slm_operator.core.sizes import gguf_bytes
from slm_operator.core.steps import Children

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLACEMENT = Placement(
    store="/store",
    pipeline_command=("python", "-m", "slm_pipelines"),
    engines={(LLAMA_CPP, CPU): Program(("llama-server",))},
    machine_cpus=2,
)
SHAPE = ModelShape(
    architecture="qwen3",
    source_type="BF16",
    vocab_size=1024,
    hidden_size=256,
    intermediate_size=768,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=64,
    tied_embeddings=True,
    metadata_bytes=20000,
)

StepAnswer = Outcome | None
"""What a Job's step answers; None leaves it running."""


def digest(text: str) -> str:
    """A digest that only depends on the text."""
    return "sha256:" + text.encode().hex().ljust(64, "0")[:64]


def qwen3(hidden_size: int, intermediate_size: int, layers: int, heads: int, *, tied: bool = False) -> ModelShape:
    """A model of the Qwen3 family, by its config.json."""
    return ModelShape(
        architecture="qwen3",
        source_type="BF16",
        vocab_size=151936,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        tied_embeddings=tied,
        metadata_bytes=6_000_000,
    )


QWEN3 = {
    "Qwen/Qwen3-0.6B": qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-8B": qwen3(4096, 12288, 36, 32),
    "Qwen/Qwen3-32B": qwen3(5120, 25600, 64, 64),
}
"""Real models by repository."""


QUANTIZED = "The weights are quantized already (`quantization_config`): use the repository they were made from."


def succeed_as(repo: str) -> Callable[[str], Outcome]:
    """As ``succeed``, for a real model, or as its publisher quantized it with AWQ."""
    original = repo.removesuffix("-AWQ")
    shape = QWEN3[original]
    size = gguf_bytes(shape, shape.source_type if repo == original else "Q4_1")
    facts: dict[str, Any] = {"shape": shape, "context_length": 40960}
    if repo != original:
        dimensions = Dimensions.model_validate(shape.model_dump(include=set(Dimensions.model_fields)))
        facts |= {"shape": None, "format": "awq", "dimensions": dimensions, "conversion_message": QUANTIZED}

    def answer(label: str) -> Outcome:
        outcome = succeed(label)
        assert outcome.result is not None
        changes = {"size_bytes": size, **(facts if label == "resolve" else {})}
        return outcome.model_copy(update={"result": outcome.result.model_copy(update=changes)})

    return answer


def succeed(label: str) -> Outcome:
    """A plausible good answer of the step with this label."""
    step, _, variant = label.partition("-")
    results: dict[str, AnyResult] = {
        "resolve": ResolveResult(
            revision="a" * 40,
            format="safetensors",
            architecture="Qwen3ForCausalLM",
            parameters=1_700_000_000,
            license="apache-2.0",
            context_length=2048,
            size_bytes=5000,
            file_count=3,
            shape=SHAPE,
        ),
        "acquire": AcquireResult(manifest=digest("model"), size_bytes=5000, file_count=3, fetched_bytes=5000),
        "convert": ArtifactResult(
            step="convert",
            manifest=digest(f"m-{variant or 'base'}"),
            blob=digest(f"b-{variant or 'base'}"),
            size_bytes=4000,
            cached=False,
            tool="t",
        ),
        "adapt": ArtifactResult(
            step="adapt", manifest=digest("m-adapt"), blob=digest("b-adapt"), size_bytes=300, cached=False, tool="t"
        ),
        "vocabulary": VocabularyResult(tokens=1024),
        "projector": ProjectorResult(kinds=["vision"]),
        "snapshot": SnapshotResult(manifest=digest("model"), size_bytes=5000, file_count=3),
        "quantize": ArtifactResult(
            step="quantize",
            manifest=digest("m" + variant),
            blob=digest("b" + variant),
            size_bytes=2000,
            cached=False,
            tool="t",
        ),
        "evaluate": EvaluateResult(
            perplexity=10.0,
            kl_divergence=None if variant == "baseline" else 0.01,
            top_one_agreement=None if variant == "baseline" else 0.98,
            chunks=16,
            cached=False,
            tool="t",
        ),
        "benchmark": BenchmarkResult(
            prompt_tokens_per_second=100.0, generate_tokens_per_second=50.0, threads=2, cached=False, tool="t"
        ),
        "report": ReportResult(html=digest("html"), png=digest("png"), manifest=digest("report")),
        "collect": CollectResult(removed_blobs=3, removed_bytes=9, kept_blobs=1),
    }
    return Outcome(result=results[step], seconds=1.0)


def fail(reason: str, message: str) -> Outcome:
    """A bad input."""
    return Outcome(error=StepError(reason=next(each for each in Reason if each == reason), message=message))


@dataclass
class World:
    """Objects by key, like a very small API server without time."""

    objects: dict[ObjectKey, Manifest] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    writes: int = 0
    placement: Placement = PLACEMENT

    def put(self, manifest: Manifest) -> ObjectKey:
        """Create or replace a user's manifest."""
        stored = copy.deepcopy(manifest)
        key = key_of(stored)
        meta = stored["metadata"]
        old = self.objects.get(key)
        meta.setdefault("namespace", "default")
        meta["uid"] = f"uid-{key}"
        changed = old is not None and old["spec"] != stored["spec"]
        meta["generation"] = (old["metadata"]["generation"] + changed) if old else 1
        if old and "status" in old:
            stored["status"] = old["status"]
        self.objects[key] = stored
        return key

    def plan(self, key: ObjectKey, now: datetime = NOW) -> Plan:
        """What the planner of the object's kind wants."""
        resource = parse_resource(self.objects[key])
        if isinstance(resource, SLMModel):
            return plan_slmmodel(ModelSnapshot(resource, self.children(resource), self.placement), now)
        if isinstance(resource, QuantJob):
            model = self._find("SLMModel", resource.spec.model_ref.name)
            return plan_quantjob(QuantSnapshot(resource, model, self.children(resource), self.placement), now)  # type: ignore[arg-type]
        return plan_inferenceservice(self.service_snapshot(resource), now)

    def service_snapshot(self, service: InferenceService) -> ServiceSnapshot:
        """What is looked at for a service."""
        spec = service.spec
        job = self._find("QuantJob", spec.quant_job_ref.name) if spec.quant_job_ref else None
        name = spec.model_ref.name if spec.model_ref else (job.spec.model_ref.name if isinstance(job, QuantJob) else "")
        pods = self._labelled("Pod", service)
        beside = {each: self._find("SLMModel", each) for each in list_companions(spec).values()}
        return ServiceSnapshot(
            service=service,
            model=self._find("SLMModel", name),  # type: ignore[arg-type]
            quant_job=job,  # type: ignore[arg-type]
            children=self.children(service),
            deployment=self.objects.get(ObjectKey("Deployment", "default", service.metadata.name)),
            address=self.objects.get(ObjectKey("Service", "default", service.metadata.name)),
            pods=tuple(pod for pod in pods if pod["metadata"]["labels"].get(LABEL_STEP) == "serve"),
            placement=self.placement,
            companions={each: model for each, model in beside.items() if model is not None},  # type: ignore[misc]
            canary=CanaryView(
                self.objects.get(canary_key(service)),
                tuple(pod for pod in pods if pod["metadata"]["labels"].get(LABEL_STEP) == "canary"),
            ),
        )

    def _find(self, kind: str, name: str) -> AnyResource | None:
        found = self.objects.get(ObjectKey(kind, "default", name))
        return parse_resource(found) if found else None

    def _labelled(self, kind: str, owner: AnyResource) -> list[Manifest]:
        wanted = {LABEL_KIND: owner.kind, LABEL_NAME: owner.metadata.name}
        return [
            item
            for key, item in self.objects.items()
            if key.kind == kind and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]

    def children(self, owner: AnyResource) -> Children:
        """Jobs and Pods of an owner."""
        return Children.of(self._labelled("Job", owner), self._labelled("Pod", owner))

    def execute(self, key: ObjectKey, plan: Plan) -> int:
        """Carry out a plan; returns how many writes it took."""
        before = self.writes
        for gone in plan.delete:
            self.writes += self.objects.pop(gone, None) is not None
        for child in plan.create:
            if key_of(child) not in self.objects:
                self.objects[key_of(child)] = copy.deepcopy(child)
                self.writes += 1
        for child in plan.apply:
            old = self.objects.get(key_of(child))
            if not is_applied(child, old):
                stored = copy.deepcopy(child) | ({"status": old["status"]} if old and "status" in old else {})
                changed = old is not None and old["spec"] != child["spec"]
                stored["metadata"]["generation"] = (old["metadata"]["generation"] if old else 1) + changed
                self.objects[key_of(child)] = stored
                self.writes += 1
        if plan.status is not None and self.objects[key].get("status") != plan.status:
            self.objects[key]["status"] = plan.status
            self.writes += 1
        self.events.extend(plan.events)
        return self.writes - before

    def finish_jobs(self, answers: Callable[[str], StepAnswer] | Mapping[str, StepAnswer]) -> int:
        """Finish every unfinished Job as ``answers(label)`` says; returns how many."""
        pick = answers if callable(answers) else answers.get
        done = 0
        for key, job in list(self.objects.items()):
            if key.kind != "Job" or "status" in job:
                continue
            outcome = self.answer(job, pick)
            if outcome is not None:
                self._finish(key, job, outcome)
                done += 1
        return done

    def answer(self, job: Manifest, pick: Callable[[str], StepAnswer]) -> StepAnswer:
        """What a Job's step answers; a world with real steps runs them here."""
        return pick(job["metadata"]["labels"][LABEL_STEP])

    def _finish(self, key: ObjectKey, job: Manifest, outcome: Outcome) -> None:
        good = outcome.result is not None
        stamp = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Complete" if good else "Failed", "status": "True", "lastTransitionTime": stamp}
        job["status"] = {"conditions": [condition | ({} if good else {"reason": "PodFailurePolicy"})]}
        message = outcome.model_dump_json(by_alias=True, exclude_none=True)
        labels = {**job["metadata"]["labels"], "job-name": key.name}
        self.objects[ObjectKey("Pod", key.namespace, f"{key.name}-0")] = {
            "kind": "Pod",
            "metadata": {"name": f"{key.name}-0", "namespace": key.namespace, "labels": labels},
            "status": {
                "phase": "Succeeded" if good else "Failed",
                "containerStatuses": [{"state": {"terminated": {"message": message}}}],
            },
        }

    def remove(self, kind: str, name: str) -> None:
        """Delete an object and its children."""
        owner = parse_resource(self.objects.pop(ObjectKey(kind, "default", name)))
        for child in [item for kind in ("Job", "Pod") for item in self._labelled(kind, owner)]:
            del self.objects[key_of(child)]

    def report_engine(self, container: Manifest) -> None:
        """Let an engine pod of the service ``s`` say this about its container."""
        template = self.objects[ObjectKey("Deployment", "default", "s")]["spec"]["template"]
        self.objects[ObjectKey("Pod", "default", "s-0")] = {
            "kind": "Pod",
            "metadata": {"name": "s-0", "namespace": "default", **template["metadata"]},
            "spec": template["spec"],
            "status": {"containerStatuses": [container]},
        }

    def report_address(self, status: Manifest) -> None:
        """Let the Service object of the service ``s`` say this about its address."""
        self.objects[ObjectKey("Service", "default", "s")]["status"] = status

    def settle(self, answers: Callable[[str], StepAnswer] | Mapping[str, StepAnswer], limit: int = 200) -> None:
        """Plan, execute and finish Jobs until nothing changes any more."""
        for _ in range(limit):
            wrote = sum(self.execute(key, self.plan(key)) for key in list(self.objects) if key.kind in OURS)
            if not wrote and not self.finish_jobs(answers):
                return
        raise AssertionError("the planners never settle")

    def condition(self, key: ObjectKey, kind: str = "Ready") -> dict[str, str]:
        """One condition of an object."""
        found = next(item for item in self.objects[key]["status"]["conditions"] if item["type"] == kind)
        return dict(found)


OURS = {"SLMModel", "QuantJob", "InferenceService"}


def manifest(kind: str, name: str, spec: Manifest) -> Manifest:
    """A user's manifest."""
    return {"apiVersion": "slm.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


MODEL = manifest("SLMModel", "m", {"source": {"huggingFace": {"repo": "o/n"}}})
QUANT = manifest("QuantJob", "q", {"modelRef": {"name": "m"}, "variants": ["Q8_0", "Q4_0"]})
SERVICE = manifest("InferenceService", "s", {"quantJobRef": {"name": "q"}})
