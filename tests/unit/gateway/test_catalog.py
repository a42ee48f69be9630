"""What the gateway reads from objects, and that it keeps up with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.core.plan import ObjectKey
from slm_operator.gateway.catalog import read_service
from slm_operator.gateway.directory import About, Canary, Endpoint, MemoryDirectory, Service
from slm_operator.gateway.following import Follower
from slm_operator.gateway.ollama_catalog import build_processes
from slm_operator.gateway.ollama_dialect import describe_served

LABELS = {"slm.dev/kind": "InferenceService", "slm.dev/name": "chat", "slm.dev/step": "serve"}
KEY = ObjectKey("InferenceService", "default", "chat")


def service(name: str = "chat", *, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"namespace": "default", "name": name, "creationTimestamp": "2026-01-02T03:04:05Z"}
    spec = {"quantJobRef": {"name": "q"}, "contextSize": 4096, "parallel": 3, **spec}
    return {"kind": "InferenceService", "metadata": meta, "spec": spec, "status": status or {}}


def pod(name: str, *, ready: bool = True, leaving: bool = False, step: str = "serve", **status: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"namespace": "default", "name": name, "labels": {**LABELS, "slm.dev/step": step}}
    meta["annotations"] = {"slm.dev/digest": "sha256:" + name[-1] * 64}
    if leaving:
        meta["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"kind": "Pod", "metadata": meta, "status": {"podIP": "10.0.0.7", "conditions": conditions, **status}}


JOB = {"kind": "QuantJob", "metadata": {"namespace": "default", "name": "q"}, "spec": {"modelRef": {"name": "qwen3"}}}
MODEL: dict[str, Any] = {
    "kind": "SLMModel",
    "metadata": {"namespace": "default", "name": "qwen3"},
    "spec": {"source": {"path": "/models/qwen3"}},
    "status": {"architecture": "qwen3", "parameters": 600, "license": "apache-2.0", "contextLength": 2048},
}


def test_what_vllm_serves_on_a_gpu_is_told_as_such() -> None:
    model = {**MODEL, "status": {**MODEL["status"], "digest": "sha256:m"}}
    status = {"digest": "sha256:m", "accelerator": {"resource": "nvidia.com/gpu", "count": 1}}
    about = read_service(service(status=status, task="embed"), [], JOB, model).about
    assert (about.format, about.task, about.on_gpu) == ("safetensors", "embed", True)
    told = build_processes([replace(describe_served(Service("n", "s", about=about), "s"), running=True)])["models"][0]
    assert (told["details"]["format"], told["size_vram"]) == ("safetensors", told["size"])
    assert describe_served(Service("n", "s", about=about), "s").capabilities == ("embedding",)


def test_a_service_with_a_projector_sees() -> None:
    about = read_service(service(projectorRef={"name": "p"}), [], JOB, None).about
    assert describe_served(Service("n", "s", about=about), "s").capabilities == ("completion", "tools", "vision")


def test_a_service_with_all_that_belongs_to_it() -> None:
    status = {"variant": "Q4_0", "digest": "sha256:d", "sizeBytes": 7, "memoryBytes": 9}
    pods = [pod("chat-b"), pod("chat-a", port=20123, podIP="127.0.0.1")]
    assert read_service(service(status=status), pods, JOB, MODEL) == Service(
        "default",
        "chat",
        served_name="chat",
        digest="sha256:d",
        endpoints=(
            Endpoint("chat-a", "127.0.0.1", 20123, "sha256:" + "a" * 64, slots=3),
            Endpoint("chat-b", "10.0.0.7", 8080, "sha256:" + "b" * 64, slots=3),
        ),
        aliases=("qwen3", "qwen3:Q4_0"),
        created=1767323045,
        about=About("Q4_0", "qwen3", 600, "apache-2.0", 2048, 7, 9),
    )


def test_engines_of_before_a_change_keep_their_own_number_of_slots() -> None:
    before, after = pod("chat-a"), pod("chat-b")
    before["metadata"]["annotations"]["slm.dev/slots"] = "8"
    assert [each.slots for each in read_service(service(), [before, after], None, None).endpoints] == [8, 3]


@pytest.mark.parametrize(
    "each",
    [
        pod("chat-a", ready=False),
        pod("chat-a", leaving=True),
        pod("chat-a", podIP=""),
        {"kind": "Pod", "metadata": {"namespace": "default", "name": "chat-a"}},
    ],
)
def test_an_engine_that_takes_no_requests_is_none(each: dict[str, Any]) -> None:
    assert read_service(service(), [each], None, None).endpoints == ()


def test_engines_that_are_tried_are_told_from_others_with_the_share_that_they_get() -> None:
    canary = {"state": "Running", "template": "0a", "percent": 25, "since": "2026-01-02T03:04:05Z"}
    found = read_service(service(status={"canary": canary}), [pod("chat-a"), pod("chat-b", step="canary")], None, None)
    assert [each.canary for each in found.endpoints] == [False, True]
    assert found.canary == Canary("0a/25/2026-01-02T03:04:05Z", 25)
    starting = read_service(service(status={"canary": {**canary, "percent": 0}}), [], None, None)
    assert starting.canary is None


def judged(reason: str, *, stalled: bool, **status: Any) -> dict[str, Any]:
    """A service of generation 2, and what was said of it."""
    conditions = [
        {"type": "Ready", "status": "False", "reason": reason},
        {"type": "Stalled", "status": str(stalled), "reason": reason},
    ]
    made = service(status={"observedGeneration": 2, "conditions": conditions, **status})
    made["metadata"]["generation"] = 2
    return made


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (judged("FormatMismatch", stalled=True), "its condition Ready is FormatMismatch, whose message says"),
        (judged("FormatMismatch", stalled=True, observedGeneration=1), ""),
        (judged("FormatMismatch", stalled=True, replicas=1), ""),
        (judged("ModelNotReady", stalled=False), ""),
        (judged("EngineCrashed", stalled=True), ""),
        (judged("StepFailed", stalled=True), ""),
        (judged("Refused", stalled=True), ""),
        (judged("VariantNotAvailable", stalled=True), ""),
        (judged("InvalidSpec", stalled=True), "its condition Ready is InvalidSpec"),
        (judged("CanaryRolledBack", stalled=True), ""),
        (judged("ScaledToZero", stalled=False), ""),
        (judged("Stopped", stalled=False), "it is stopped, until spec.replicas is 1 or more"),
        (service(), ""),
    ],
)
def test_why_waiting_brings_no_engine(manifest: dict[str, Any], said: str) -> None:
    told = read_service(manifest, [], None, None, scaled_by_others=False).no_engine
    assert told.startswith(said)
    assert bool(told) == bool(said)


def test_what_is_stopped_may_be_started_by_an_autoscaler_of_somebody_elses() -> None:
    assert read_service(judged("Stopped", stalled=False), [], None, None).no_engine == ""
    assert read_service(judged("FormatMismatch", stalled=True), [], None, None).no_engine != ""


def test_a_service_of_which_nothing_is_known_yet() -> None:
    found = read_service({**service(), "status": None}, [], None, None)
    assert (found.key, found.aliases, found.digest, found.about.context_size) == ("default/chat", (), "", 4096)


def test_the_unquantized_model_has_its_name_alone() -> None:
    manifest = service(status={"variant": "baseline"}, quantJobRef=None, modelRef={"name": "qwen3"})
    assert read_service(manifest, [], None, MODEL).aliases == ("qwen3",)


def with_adapters(name: str, adapters: str) -> dict[str, Any]:
    made = pod(name)
    made["metadata"]["annotations"]["slm.dev/adapters"] = adapters
    return made


@pytest.mark.parametrize(
    ("pods", "offered"),
    [
        ([], ("a", "b")),
        ([with_adapters("chat-a", "b,a")], ("b", "a")),
        ([with_adapters("chat-a", "c,a"), with_adapters("chat-b", "a,b")], ("c", "a", "b")),
        ([pod("chat-a"), with_adapters("chat-b", "a,b")], ("a", "b")),
    ],
    ids=["no engine yet", "one", "a rollout from other adapters", "a rollout from none"],
)
def test_an_adapter_is_offered_that_some_engine_holds(pods: list[dict[str, Any]], offered: tuple[str, ...]) -> None:
    spec = [{"name": name, "modelRef": {"name": f"lora-{name}"}} for name in ("a", "b")]
    found = read_service(service(adapters=spec), pods, None, None)
    assert found.adapters == offered
    assert found.to_come == frozenset(("a", "b"))


def test_an_engine_says_whether_its_adapters_are_asked_for_by_name() -> None:
    named = with_adapters("chat-a", "a")
    named["metadata"]["annotations"]["slm.dev/adapters-by-name"] = "true"
    found = read_service(service(), [named, with_adapters("chat-b", "a")], None, None)
    assert [each.by_name for each in found.endpoints] == [True, False]


def test_a_service_with_an_adapter_goes_by_both_names_and_a_variant_is_no_adapter() -> None:
    chat = Service("n", "chat", aliases=("qwen3", "qwen3:Q4_0"), adapters=("french",))
    directory = MemoryDirectory([chat])
    french = replace(chat, adapter="french")
    assert [each.model for each in chat.offers()] == ["n/chat", "n/chat:french"]
    for name in ("chat:french", "n/chat:french", "qwen3:french", "qwen3:Q4_0:french"):
        assert directory.find(name, "n") == french
    assert directory.find("qwen3:Q4_0", "n") == chat
    assert [directory.find(name, "n") for name in ("chat:", ":french", "chat:Q4_0", "other:french")] == [None] * 4


def test_an_adapter_after_an_alias_is_that_of_the_first_service_that_has_it() -> None:
    plain, able = Service("n", "a", aliases=("m",)), Service("n", "b", aliases=("m",), adapters=("french",))
    directory = MemoryDirectory([plain, able])
    assert directory.find("m", "n") == plain
    assert directory.find("m:french", "n") == replace(able, adapter="french")
    assert directory.find("a:french", "n") is None


def test_an_alias_is_its_first_holders_until_that_one_is_gone() -> None:
    one, two = Service("n", "one", aliases=("m", "two")), Service("n", "two", aliases=("m",))
    directory = MemoryDirectory([two, one])
    told: list[str] = []
    directory.subscribe(told.append)
    assert (directory.find("m", "n"), directory.find("two", "n"), directory.find("n/m", "elsewhere")) == (one, two, one)
    directory.remove("n/one")
    assert (directory.find("m", "n"), directory.find("one", "n")) == (two, None)
    directory.put(two)
    directory.put(Service("n", "two"))
    assert (directory.find("m", "n"), told) == (None, ["n/one", "n/two"])


@asynccontextmanager
async def followed(cluster: SqliteCluster) -> AsyncIterator[MemoryDirectory]:
    directory = MemoryDirectory()
    task = asyncio.create_task(Follower(cluster, directory, scaled_by_others=True).run())
    yield directory
    task.cancel()
    await asyncio.wait([task])


async def until_found(directory: MemoryDirectory, **wanted: Any) -> None:
    """Wait until the service looks like this; ``gone`` waits for its end."""
    async with asyncio.timeout(30):
        while True:
            found = directory.find("chat", "default")
            if found is None if wanted.get("gone") else found and wanted.items() <= vars(found).items():
                return
            await asyncio.sleep(0.01)


async def test_the_directory_follows_each_object_that_matters(tmp_path: Path) -> None:
    cluster = SqliteCluster(tmp_path / "objects.db")
    await cluster.apply(service())
    async with followed(cluster) as directory:
        await until_found(directory, endpoints=(), aliases=())
        await cluster.apply(JOB)
        await until_found(directory, aliases=("qwen3",))
        await cluster.apply(MODEL)
        await cluster.update_status(ObjectKey("SLMModel", "default", "qwen3"), MODEL["status"])
        await until_found(directory, about=About("", "qwen3", 600, "apache-2.0", 2048))
        await cluster.update_status(KEY, {"variant": "Q4_0"})
        await until_found(directory, aliases=("qwen3", "qwen3:Q4_0"))
        await cluster.apply(pod("chat-a"))
        engine = ObjectKey("Pod", "default", "chat-a")
        await cluster.update_status(engine, pod("chat-a")["status"])
        await until_found(directory, endpoints=(Endpoint("chat-a", "10.0.0.7", 8080, "sha256:" + "a" * 64, slots=3),))
        await cluster.delete(engine)
        await until_found(directory, endpoints=())
        await cluster.apply(pod("chat-b", step="canary"))
        await cluster.update_status(ObjectKey("Pod", "default", "chat-b"), pod("chat-b")["status"])
        tried = Endpoint("chat-b", "10.0.0.7", 8080, "sha256:" + "b" * 64, canary=True, slots=3)
        await until_found(directory, endpoints=(tried,))
        await cluster.delete(KEY)
        await until_found(directory, gone=True)
    cluster.close()


async def test_what_went_while_nobody_looked_is_gone(tmp_path: Path) -> None:
    cluster = SqliteCluster(tmp_path / "objects.db")
    directory = MemoryDirectory([Service("default", "left-over"), Service("default", "chat")])
    await cluster.apply(service())
    await Follower(cluster, directory, scaled_by_others=True).fill()
    assert [each.key for each in directory.services()] == ["default/chat"]
    cluster.close()
