"""A cluster in memory with the rules that planners depend on: owners, finalizers, namespaces that end. No processes."""

import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from slm_contract.results import Outcome
from slm_operator.core.manifests.metadata import LABEL_STEP, controller_of, describe_controller
from slm_operator.core.placement import CPU, LLAMA_CPP, VLLM, ClusterPods, Placement, Program
from slm_operator.core.plan import key_of
from slm_operator.errors import Conflict, NamespaceEnding, NameTaken
from slm_operator.ports import EventRecord, Manifest, ObjectKey
from slm_operator.reconcile.reconciler import Reconciler
from tests.support.planning import digest

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ON_CLUSTER = Placement(
    store="/store",
    pipeline_command=("python3", "-m", "slm_pipelines"),
    engines={
        (LLAMA_CPP, CPU): Program(("llama-server",), "llama-cpp:1"),
        (VLLM, "NVIDIA"): Program(("vllm", "serve"), "vllm-openai:1"),
        (VLLM, "AMD"): Program(("vllm", "serve"), "vllm-openai-rocm:1"),
    },
    machine_cpus=0,
    listen_host="0.0.0.0",
    image="pipelines:1",
    pods=ClusterPods(),
)
STORE = ObjectKey("PersistentVolumeClaim", "default", "slm-store")


@dataclass
class MemoryCluster:
    """``ports.Cluster`` and its own clock; every write is remembered as ``verb kind/name``."""

    objects: dict[ObjectKey, Manifest] = field(default_factory=dict)
    events: list[EventRecord] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    time: datetime = START
    ending: bool = False
    """Whether the namespace is being deleted."""
    _version: int = 0

    def now(self) -> datetime:
        """The cluster's and the operator's time."""
        return self.time

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.time += timedelta(seconds=seconds)

    async def get(self, key: ObjectKey) -> Manifest | None:
        """A copy."""
        return copy.deepcopy(self.objects.get(key))

    async def list(self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Copies."""
        wanted = (labels or {}).items()
        return [
            copy.deepcopy(item)
            for key, item in self.objects.items()
            if key.kind == kind
            and namespace in ("", key.namespace)
            and wanted <= item["metadata"].get("labels", {}).items()
        ]

    async def list_anew(self, kind: str, namespace: str, labels: Mapping[str, str]) -> Sequence[Manifest]:
        """What is there, where a test lets ``list`` be behind."""
        return await MemoryCluster.list(self, kind, namespace, labels)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create, or what is there."""
        key = key_of(manifest)
        if key not in self.objects:
            self._add(manifest)
            self.writes.append(f"create {key.kind}/{key.name}")
        return copy.deepcopy(self.objects[key])

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or replace all but the status."""
        key = key_of(manifest)
        if (found := self.objects.get(key)) is None:
            self._add(manifest)
        else:
            if controller_of(found) != controller_of(manifest):
                raise NameTaken(f"{key} belongs to {describe_controller(found)}")
            found["metadata"]["generation"] += found["spec"] != manifest["spec"]
            found |= {"spec": copy.deepcopy(manifest["spec"])}
            self._touch(found)
        self.writes.append(f"apply {key.kind}/{key.name}")
        return copy.deepcopy(self.objects[key])

    async def delete(self, key: ObjectKey) -> None:
        """Delete, or mark as deleted while finalizers hold it."""
        if (found := self.objects.get(key)) is None:
            return
        self.writes.append(f"delete {key.kind}/{key.name}")
        if found["metadata"].get("finalizers"):
            found["metadata"].setdefault("deletionTimestamp", self._stamp())
            self._touch(found)
        else:
            self._remove(key)

    async def update_status(self, key: ObjectKey, status: Manifest, uid: str = "") -> None:
        """Write a status that differs."""
        if key not in self.objects or uid not in ("", self.objects[key]["metadata"]["uid"]):
            raise Conflict(f"{key} is gone")
        if self.objects[key].get("status") != status:
            self.objects[key]["status"] = copy.deepcopy(status)
            self._touch(self.objects[key])
            self.writes.append(f"status {key.kind}/{key.name}")

    async def set_finalizers(self, key: ObjectKey, resource_version: str, finalizers: Sequence[str]) -> None:
        """Replace the finalizers of that version."""
        if (found := self.objects.get(key)) is None:
            return
        if found["metadata"]["resourceVersion"] != resource_version:
            raise Conflict(f"{key} changed in between")
        found["metadata"]["finalizers"] = [*finalizers]
        self._touch(found)
        self.writes.append(f"finalizers {key.kind}/{key.name}")
        if not finalizers and found["metadata"].get("deletionTimestamp"):
            self._remove(key)

    async def record(self, event: EventRecord) -> None:
        """Remember."""
        self.events.append(event)

    async def changes(self) -> AsyncIterator[ObjectKey]:
        """All objects once: tests look at each in turn, and nobody watches."""
        for key in list(self.objects):
            yield key

    def _add(self, manifest: Manifest) -> None:
        key = key_of(manifest)
        if self.ending:
            raise NamespaceEnding(f"{key} cannot be created: its namespace is being deleted.")
        stored = copy.deepcopy(manifest)
        self._version += 1
        given = {"uid": f"uid-{self._version}", "generation": 1, "creationTimestamp": self._stamp()}
        stored["metadata"] = {**given, "namespace": "default", **stored["metadata"]}
        self._touch(stored)
        self.objects[key] = stored

    def _touch(self, manifest: Manifest) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)

    def _remove(self, key: ObjectKey) -> None:
        uid = self.objects.pop(key)["metadata"]["uid"]
        owned = [
            each
            for each, item in self.objects.items()
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))
        ]
        for each in owned:
            if each in self.objects:
                self._remove(each)

    def _stamp(self) -> str:
        return self.time.strftime("%Y-%m-%dT%H:%M:%SZ")

    def finish(self, key: ObjectKey, outcome: Outcome) -> None:
        """End a Job and its Pod as the outcome says."""
        job, good = self.objects[key], outcome.result is not None
        ended = {"type": "Complete" if good else "Failed", "status": "True", "lastTransitionTime": self._stamp()}
        job["status"] = {"conditions": [ended | ({} if good else {"reason": "PodFailurePolicy"})]}
        message = outcome.model_dump_json(by_alias=True, exclude_none=True)
        pod = self.start_pod(key)
        pod["status"] = {
            "phase": "Succeeded" if good else "Failed",
            "containerStatuses": [{"state": {"terminated": {"message": message}}}],
        }

    def start_pod(self, job: ObjectKey) -> Manifest:
        """The Pod of a Job."""
        name = ObjectKey("Pod", job.namespace, f"{job.name}-0")
        owner = self.objects[job]["metadata"]
        if name not in self.objects:
            reference = {"kind": "Job", "name": job.name, "uid": owner["uid"], "controller": True}
            labels = {**owner["labels"], "job-name": job.name}
            meta = {"name": name.name, "namespace": job.namespace, "labels": labels, "ownerReferences": [reference]}
            self._add({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {}, "status": {"phase": "Running"}})
        return self.objects[name]


OURS = ("SLMModel", "QuantJob", "InferenceService")


@dataclass
class Operated:
    """An operator at work on a cluster in memory."""

    cluster: MemoryCluster = field(default_factory=MemoryCluster)
    placement: Placement = ON_CLUSTER
    job: ObjectKey | None = None
    """The Job whose outcome was asked for last."""

    @property
    def reconciler(self) -> Reconciler:
        """Without any memory of its own."""
        return Reconciler(self.cluster, self.cluster, self.placement)

    async def put(self, *manifests: Manifest) -> None:
        """Apply what a user wrote."""
        for manifest in manifests:
            key = key_of(manifest)
            spec = copy.deepcopy(manifest["spec"])
            if (found := self.cluster.objects.get(key)) is None:
                await self.cluster.create(manifest)
            else:
                found["metadata"]["generation"] += found["spec"] != spec
                found["spec"] = spec

    async def look(self) -> int:
        """Reconcile everything once, the store too; returns the number of writes."""
        before = len(self.cluster.writes)
        for key in [STORE, *(key for key in list(self.cluster.objects) if key.kind in OURS)]:
            try:
                await self.reconciler.reconcile(key)
            except Conflict:
                continue
        return len(self.cluster.writes) - before

    async def settle(self, answer: Callable[[str], Outcome | None], limit: int = 200) -> None:
        """Reconcile and finish Jobs until nothing changes."""
        for _ in range(limit):
            wrote = await self.look()
            ended = 0
            for key in self.running_jobs():
                self.job = key
                outcome = answer(self.cluster.objects[key]["metadata"]["labels"][LABEL_STEP])
                if outcome is not None:
                    self.cluster.finish(key, outcome)
                    ended += 1
            if not wrote and not ended:
                return
        raise AssertionError("the planners never settle")

    def running_jobs(self) -> list[ObjectKey]:
        """Jobs that have not ended."""
        return [key for key, item in self.cluster.objects.items() if key.kind == "Job" and "status" not in item]

    def condition(self, kind: str, name: str, type_: str = "Ready") -> Manifest:
        """One condition."""
        status = self.cluster.objects[ObjectKey(kind, "default", name)]["status"]
        return dict(next(item for item in status["conditions"] if item["type"] == type_))

    def told(self, kind: str, name: str) -> tuple[str, str]:
        """Reason and message of Ready."""
        found = self.condition(kind, name)
        return found["reason"], found["message"]


RANK = 4
"""Of adapters that RANKS does not name."""
RANKS = {"l": 12}
"""Name of an adapter's SLMModel to its rank."""


def adapter_digest(name: str) -> str:
    """Digest of the manifest of an adapter."""
    return digest(f"lora-{name}")


def with_adapters(made: Operated, answer: Callable[[str], Outcome | None]) -> Callable[[str], Outcome | None]:
    """As ``answer``, but every SLMModel that a service names as an adapter is one."""

    def answer_of(label: str) -> Outcome | None:
        outcome, name = answer(label), _find_adapter(made, label)
        if outcome is None or outcome.result is None or not name:
            return outcome
        changes: Manifest = {"manifest": adapter_digest(name)}
        if label == "resolve":
            changes = {"format": "lora", "architecture": "LORA", "rank": RANKS.get(name, RANK)}
            changes |= {"shape": None, "context_length": 0}
        elif label == "adapt":
            changes = {"manifest": digest(f"m-{name}"), "blob": digest(f"b-{name}")}
        return outcome.model_copy(update={"result": outcome.result.model_copy(update={**changes, "size_bytes": 300})})

    return answer_of


def _find_adapter(made: Operated, label: str) -> str:
    """Name of the adapter that the step is about, or nothing."""
    specs = [item["spec"] for key, item in made.cluster.objects.items() if key.kind == "InferenceService"]
    adapters = {each["modelRef"]["name"] for spec in specs for each in spec.get("adapters") or ()}
    assert made.job is not None
    job = made.cluster.objects[made.job]
    if label in ("adapt", "snapshot"):
        return next((name for name in adapters if adapter_digest(name) in str(job["spec"])), "")
    owner = str(job["metadata"]["ownerReferences"][0]["name"])
    return owner if label in ("resolve", "acquire") and owner in adapters else ""
