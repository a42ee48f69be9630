"""What planners decide on a cluster: the store first, few writes, finished work stays finished."""

import copy
from typing import Any

import pytest

from slm_operator.core.plan import EventRecord, Manifest, ObjectKey
from slm_operator.errors import Conflict, NameTaken, Refused
from tests.support.memory_cluster import STORE, MemoryCluster, Operated
from tests.support.planning import MODEL, QUANT, SERVICE, fail, manifest, succeed

MODEL_KEY = ObjectKey("SLMModel", "default", "m")
QUANT_KEY = ObjectKey("QuantJob", "default", "q")
SERVICE_KEY = ObjectKey("InferenceService", "default", "s")
DEPLOYMENT = ObjectKey("Deployment", "default", "s")
URL = "http://s.default.svc:80"


def report(cluster: MemoryCluster, **numbers: int) -> None:
    """Let the Deployment's controller say this."""
    found = cluster.objects[DEPLOYMENT]
    found["status"] = {"observedGeneration": found["metadata"]["generation"], **numbers}


async def serving(**spec: Any) -> Operated:
    """A service that is Ready."""
    made = Operated()
    await made.put(MODEL, QUANT, manifest("InferenceService", "s", {**SERVICE["spec"], **spec}))
    await made.settle(succeed)
    count = made.cluster.objects[DEPLOYMENT]["spec"]["replicas"]
    report(made.cluster, replicas=count, updatedReplicas=count, readyReplicas=count, availableReplicas=count)
    await made.settle(succeed)
    assert made.told("InferenceService", "s") == ("Ready", f"{count} of {count} engines answer at {URL}/v1.")
    return made


async def test_a_new_service_costs_four_writes_and_no_event() -> None:
    made = Operated()
    await made.put(MODEL, QUANT)
    await made.settle(succeed)
    await made.put(SERVICE)
    made.cluster.writes.clear()
    made.cluster.events.clear()
    await made.settle(succeed)
    report(made.cluster, unavailableReplicas=1)
    await made.settle(succeed)
    report(made.cluster, replicas=1, updatedReplicas=1, unavailableReplicas=1)
    await made.settle(succeed)
    assert made.told("InferenceService", "s") == ("Starting", "Engines are starting: 0 of 1 answer.")
    report(made.cluster, replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1)
    await made.settle(succeed)
    assert made.told("InferenceService", "s") == ("Ready", f"1 of 1 engines answer at {URL}/v1.")
    assert made.cluster.writes == [
        "apply Deployment/s",
        "apply Service/s",
        "status InferenceService/s",
        "status InferenceService/s",
    ]
    assert made.cluster.events == []


async def test_a_settled_namespace_is_never_written_again() -> None:
    made = await serving(replicas=3)
    assert ObjectKey("PodDisruptionBudget", "default", "s") in made.cluster.objects
    assert await made.look() == 0


async def test_a_roll_out_says_what_differs_and_a_scaling_does_not_roll() -> None:
    made = await serving()
    await made.put(manifest("InferenceService", "s", {**SERVICE["spec"], "contextSize": 512}))
    await made.look()
    (event,) = [each for each in made.cluster.events if each.reason == "RollingOut"]
    assert event.message == (
        "New engines are starting, because --ctx-size changes from 8192 to 2048. "
        f"The engines from before answer at {URL}/v1 until then."
    )
    await made.settle(succeed)
    assert made.told("InferenceService", "s") == ("RollingOut", event.message)
    report(made.cluster, replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1)
    await made.settle(succeed)
    template = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"]["template"])
    made.cluster.events.clear()
    await made.put(manifest("InferenceService", "s", {**SERVICE["spec"], "contextSize": 512, "replicas": 2}))
    await made.look()
    assert made.told("InferenceService", "s") == ("Ready", f"1 of 2 engines answer at {URL}/v1.")
    assert [(each.reason, each.message) for each in made.cluster.events] == [("Scaled", "Scaled from 1 to 2 engines.")]
    assert made.cluster.objects[DEPLOYMENT]["spec"]["template"] == template


async def test_a_pod_that_no_node_takes_and_a_quota_that_is_used_up_are_told_in_their_own_words() -> None:
    made = await serving()
    await made.put(manifest("InferenceService", "s", {**SERVICE["spec"], "extraArgs": ["--jinja"]}))
    await made.settle(succeed)
    report(made.cluster, replicas=1, updatedReplicas=0, readyReplicas=1, availableReplicas=1)
    refused = {"type": "ReplicaFailure", "status": "True", "message": 'pods "s-1" is forbidden: exceeded quota: q'}
    made.cluster.objects[DEPLOYMENT]["status"]["conditions"] = [refused]
    await made.settle(succeed)
    assert made.told("InferenceService", "s") == (
        "PodWaiting",
        (
            'An engine cannot start: its pod is refused: pods "s-1" is forbidden: exceeded quota: q. '
            f"The engines from before answer at {URL}/v1 until then."
        ),
    )
    assert (made.cluster.events[-1].type, made.cluster.events[-1].reason) == ("Warning", "PodWaiting")


NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "small", "labels": {"pool": "models"}},
    "status": {"allocatable": {"cpu": "4", "memory": "512Mi"}, "conditions": [{"type": "Ready", "status": "True"}]},
}
NOT_THIS_ONE = {**NODE, "metadata": {"name": "large"}, "status": {"allocatable": {"memory": "64Gi", "cpu": "64"}}}
NO_ROOM = "0/2 nodes are available: 2 Insufficient memory."


async def unscheduled(*nodes: Manifest, **spec: Any) -> tuple[Operated, str]:
    """A service whose engine the scheduler finds no node for, and its sentence."""
    made = Operated()
    await made.put(MODEL, QUANT, manifest("InferenceService", "s", {**SERVICE["spec"], **spec}))
    for node in nodes:
        await made.cluster.create(node)
    await made.settle(succeed)
    report(made.cluster, replicas=1, updatedReplicas=1, unavailableReplicas=1)
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_ROOM}
    template = copy.deepcopy(made.cluster.objects[DEPLOYMENT]["spec"]["template"])
    pod = {**template, "apiVersion": "v1", "kind": "Pod", "status": {"conditions": [waiting]}}
    pod["metadata"] |= {"name": "s-1"}
    await made.cluster.create(pod)
    made.cluster.events.clear()
    await made.settle(succeed)
    reason, message = made.told("InferenceService", "s")
    assert [(each.type, each.reason) for each in made.cluster.events] == [("Warning", reason)]
    beginning = f"An engine cannot start: no node takes it: {NO_ROOM} "
    assert message.startswith(beginning)
    return made, f"{reason}: {message.removeprefix(beginning)}"


async def test_an_engine_that_fits_on_no_node_says_by_how_much_and_what_would_help() -> None:
    _, told = await unscheduled(NODE, NOT_THIS_ONE, nodeSelector={"pool": "models"}, contextSize=2048, parallel=256)
    assert told == (
        "DoesNotFit: The engine needs 522.0 MiB (weights Q4_0 2.0 KiB, KV cache 512.0 MiB for 256 slots of 2048 "
        "tokens, buffers 10.0 MiB) and fits on no node: CPU and 512.0 MiB (small) lacks 266.0 MiB of 778.0 MiB. "
        "It would fit with spec.contextSize 768 instead of 2048; or spec.parallel 123 instead of 256."
    )


async def test_memory_that_the_spec_asks_for_is_what_is_lacking() -> None:
    _, told = await unscheduled(NODE, resources={"requests": {"memory": "2Gi"}})
    assert told == (
        "DoesNotFit: The engine needs 2.00 GiB, as spec.resources says, and fits on no node: CPU and 512.0 MiB (small) "
        "lacks 1.50 GiB of 2.00 GiB. It would fit with spec.resources.requests.memory of at most 512Mi."
    )


async def test_an_engine_that_only_waits_for_others_to_leave_says_where_it_fits() -> None:
    _, told = await unscheduled(NODE)
    assert told.startswith("PodWaiting: Its memory, ")
    assert told.endswith(" fits on CPU and 512.0 MiB (small).")


async def test_where_no_node_takes_pods_at_all_memory_is_not_what_is_lacking() -> None:
    _, told = await unscheduled({**NODE, "spec": {"unschedulable": True}})
    assert told.startswith("PodWaiting: The engine needs ")
    assert told.endswith(
        " fits on no node. None is there that takes pods: see whether nodes are ready, and what "
        "spec.nodeSelector asks for."
    )


async def test_a_step_whose_pod_cannot_start_says_why() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.look()
    await made.look()
    await made.look()
    (job,) = made.running_jobs()
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
    made.cluster.start_pod(job)["status"] = {"containerStatuses": [{"state": {"waiting": waiting}}]}
    await made.look()
    assert made.told("SLMModel", "m") == (
        "PodWaiting",
        'resolve cannot start: its container cannot be made: secret "hub" not found.',
    )


async def test_no_step_starts_before_the_claim_and_its_policies_are_there() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.reconciler.reconcile(MODEL_KEY)
    assert made.told("SLMModel", "m") == (
        "StoreNotReady",
        "The volume claim slm-store does not exist yet. The operator makes it, and then this goes on.",
    )
    await made.reconciler.reconcile(STORE)
    await made.reconciler.reconcile(MODEL_KEY)
    assert "The network policy slm-steps-offline does not exist yet." in made.told("SLMModel", "m")[1]
    await made.reconciler.reconcile(STORE)
    await made.reconciler.reconcile(MODEL_KEY)
    assert made.told("SLMModel", "m") == ("Resolving", "resolve: starting")
    assert await made.reconciler.reconcile(STORE) is None
    owners = {
        owner["uid"]
        for key, item in made.cluster.objects.items()
        if key.kind == "NetworkPolicy"
        for owner in item["metadata"]["ownerReferences"]
    }
    assert owners == {made.cluster.objects[STORE]["metadata"]["uid"]}


async def test_a_claim_that_somebody_brings_is_taken_as_it_is() -> None:
    made = Operated()
    meta = {"name": "slm-store", "namespace": "default"}
    own = {"apiVersion": "v1", "kind": STORE.kind, "metadata": meta, "spec": {"volumeName": "nfs"}}
    await made.cluster.create(own)
    await made.put(MODEL)
    await made.settle(succeed)
    assert made.condition("SLMModel", "m")["status"] == "True"
    assert made.cluster.objects[STORE]["spec"] == own["spec"]
    assert "labels" not in made.cluster.objects[STORE]["metadata"]


async def test_a_namespace_without_a_model_gets_no_store() -> None:
    made = Operated()
    await made.put(QUANT, SERVICE)
    await made.settle(succeed)
    assert STORE not in made.cluster.objects


async def test_a_claim_without_a_class_and_a_lost_one_are_stalled_with_what_to_do() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.reconciler.reconcile(STORE)
    made.cluster.objects[STORE]["status"] = {"phase": "Pending"}
    await made.look()
    reason, message = made.told("SLMModel", "m")
    assert reason == "StoreNotReady"
    assert "has no storage class and the cluster no default one: set the operator's SLM_STORE_CLASS" in message
    assert made.condition("SLMModel", "m", "Stalled")["status"] == "True"
    made.cluster.objects[STORE]["status"] = {"phase": "Lost"}
    await made.look()
    assert made.told("SLMModel", "m")[1].startswith("The volume of claim slm-store is lost: restore it")
    made.cluster.objects[STORE] |= {"spec": {"storageClassName": "local"}, "status": {"phase": "Pending"}}
    await made.settle(succeed)
    assert made.condition("SLMModel", "m")["status"] == "True"


async def test_a_foreign_policy_of_a_needed_name_lets_nothing_start() -> None:
    made = Operated()
    foreign = {"metadata": {"name": "slm-engines", "namespace": "default"}, "spec": {"podSelector": {}}}
    await made.cluster.create({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **foreign})
    await made.put(MODEL)
    await made.settle(succeed)
    assert made.told("SLMModel", "m") == (
        "NameConflict",
        "NetworkPolicy slm-engines exists and belongs to somebody else: rename it, no pod starts without ours.",
    )
    key = ObjectKey("NetworkPolicy", "default", "slm-engines")
    assert made.cluster.objects[key]["spec"] == foreign["spec"]


async def test_a_job_of_the_needed_name_that_is_not_ours_is_a_conflict_and_left_alone() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.reconciler.reconcile(STORE)
    await made.reconciler.reconcile(STORE)
    before = copy.deepcopy(made.cluster.objects)
    await made.reconciler.reconcile(MODEL_KEY)
    (job,) = made.running_jobs()
    made.cluster.objects = before
    meta, spec = {"name": job.name, "namespace": "default"}, {"template": "mine"}
    await made.cluster.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})
    await made.look()
    await made.look()
    assert made.told("SLMModel", "m") == (
        "NameConflict",
        f"Job/default/{job.name} exists and belongs to somebody else: rename it or this SLMModel.",
    )
    assert made.cluster.objects[job]["spec"] == spec
    assert [event.reason for event in made.cluster.events].count("NameConflict") == 1


async def test_a_finished_model_and_quantjob_need_their_jobs_no_more() -> None:
    made = await serving()
    before = {key: copy.deepcopy(made.cluster.objects[key]["status"]) for key in (MODEL_KEY, QUANT_KEY, SERVICE_KEY)}
    for key in [key for key in made.cluster.objects if key.kind in ("Job", "Pod")]:
        del made.cluster.objects[key]
    made.cluster.wait(3600)
    assert await made.look() == 0
    assert {key: made.cluster.objects[key]["status"] for key in before} == before


async def test_another_claim_is_an_empty_store_so_everything_is_made_again() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(succeed)
    await made.cluster.delete(STORE)
    await made.reconciler.reconcile(MODEL_KEY)
    assert made.told("SLMModel", "m")[0] == "StoreNotReady"
    made.cluster.wait(1)
    made.cluster.writes.clear()
    await made.settle(succeed)
    assert made.condition("SLMModel", "m")["status"] == "True"
    jobs = [write.rpartition("-")[0] for write in made.cluster.writes if "Job/m-" in write]
    assert jobs == ["delete Job/m-resolve", "create Job/m-resolve", "delete Job/m-acquire", "create Job/m-acquire"]


async def test_a_step_whose_pod_is_removed_while_others_work_is_not_done_again() -> None:
    made = Operated()
    await made.put(MODEL, QUANT)
    await made.settle(lambda label: None if label == "report" else succeed(label))
    for key in [key for key in made.cluster.objects if key.kind == "Pod"]:
        del made.cluster.objects[key]
    assert await made.look() == 0
    await made.settle(succeed)
    assert made.told("QuantJob", "q")[0] == "Succeeded"
    # Left out: server-side apply makes null of a mapping that has become empty.
    assert "results" not in made.cluster.objects[QUANT_KEY]["status"]


@pytest.mark.parametrize("seen", ["as it was while it ran", "not at all"])
async def test_of_a_step_whose_pods_end_is_not_seen_yet_the_cluster_is_asked(
    monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(lambda _: None)
    (job,) = made.running_jobs()
    before = await made.cluster.list("Pod", "default") if seen == "as it was while it ran" else []
    made.cluster.finish(job, succeed("resolve"))
    made.cluster.writes.clear()
    listed = made.cluster.list

    async def behind(kind: str, namespace: str = "", labels: Any = None) -> Any:
        return before if kind == "Pod" else await listed(kind, namespace, labels)

    monkeypatch.setattr(made.cluster, "list", behind)
    await made.reconciler.reconcile(MODEL_KEY)
    assert made.told("SLMModel", "m")[0] == "Acquiring"
    assert [write for write in made.cluster.writes if write.startswith("delete")] == []


async def test_a_step_that_left_nothing_runs_again() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(lambda _: None)
    (job,) = made.running_jobs()
    made.cluster.finish(job, succeed("resolve"))
    del made.cluster.objects[ObjectKey("Pod", "default", f"{job.name}-0")]
    made.cluster.writes.clear()
    await made.settle(succeed)
    assert made.condition("SLMModel", "m")["status"] == "True"
    assert made.cluster.writes[:2] == [f"delete Job/{job.name}", f"create Job/{job.name}"]


async def test_a_failure_keeps_its_words_when_its_pod_is_removed() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(lambda _: fail("UnsafeFormat", "only pickles"))
    for key in [key for key in made.cluster.objects if key.kind == "Pod"]:
        del made.cluster.objects[key]
    made.cluster.wait(60)
    await made.settle(succeed)
    assert made.told("SLMModel", "m") == ("UnsafeFormat", "only pickles")


async def test_jobs_of_a_finished_quantjob_go_after_its_ttl_and_it_stays_ready() -> None:
    made = Operated()
    await made.put(MODEL, manifest("QuantJob", "q", {**QUANT["spec"], "ttlSecondsAfterFinished": 600}))
    await made.settle(succeed)
    assert await made.reconciler.reconcile(QUANT_KEY) == 600
    made.cluster.wait(599)
    assert await made.look() == 0
    made.cluster.wait(1)
    await made.settle(succeed)
    assert not [key for key in made.cluster.objects if key.kind == "Job" and key.name.startswith("q-")]
    assert made.told("QuantJob", "q")[0] == "Succeeded"


async def test_a_local_path_is_refused_with_what_to_use_instead() -> None:
    made = Operated()
    await made.put(manifest("SLMModel", "m", {"source": {"path": "/models/m"}}))
    await made.settle(succeed)
    assert made.told("SLMModel", "m") == (
        "SourceNotSupported",
        (
            "spec.source.path names /models/m on one machine, which the pods of a cluster cannot see: create another "
            "SLMModel with spec.source.huggingFace, whose endpoint may be a hub inside your network."
        ),
    )
    assert not [key for key in made.cluster.objects if key.kind == "Job"]


async def test_suspending_a_service_leaves_its_engines_as_they_are() -> None:
    made = await serving()
    before = copy.deepcopy(made.cluster.objects[DEPLOYMENT])
    await made.put(manifest("InferenceService", "s", {**SERVICE["spec"], "suspend": True, "replicas": 0}))
    await made.settle(succeed)
    assert made.told("InferenceService", "s") == (
        "Suspended",
        "Suspended: engines go on as they are. Set spec.suspend to false to follow the spec again.",
    )
    assert made.cluster.objects[DEPLOYMENT] == before
    assert made.cluster.objects[SERVICE_KEY]["status"]["readyReplicas"] == 1


async def test_a_budget_exists_only_while_there_are_engines_to_spare() -> None:
    made = await serving(replicas=2)
    await made.put(SERVICE)
    await made.settle(succeed)
    assert ObjectKey("PodDisruptionBudget", "default", "s") not in made.cluster.objects


async def test_children_of_an_earlier_object_of_the_same_name_are_waited_for() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(lambda _: None)
    (job,) = made.running_jobs()
    made.cluster.objects[job]["metadata"]["ownerReferences"][0]["uid"] = "earlier"
    made.cluster.objects[job]["metadata"]["labels"] = {}
    with pytest.raises(Conflict, match="of an earlier object of the same name is still being removed") as waits:
        await made.reconciler.reconcile(MODEL_KEY)
    assert not isinstance(waits.value, NameTaken)
    assert made.told("SLMModel", "m")[0] == "Resolving"


async def test_what_the_cluster_refuses_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Operated()
    await made.put(MODEL)
    problem = 'jobs.batch "m-resolve" is forbidden: exceeded quota: q, requested: count/jobs.batch=1'

    async def refuse(_manifest: Manifest) -> Manifest:
        raise Refused(problem)

    with monkeypatch.context() as patched:
        patched.setattr(made.cluster, "create", refuse)
        with pytest.raises(Refused):
            await made.reconciler.reconcile(STORE)
    assert made.cluster.events[-1] == EventRecord(STORE, "Warning", "Refused", problem)
    await made.reconciler.reconcile(STORE)
    await made.reconciler.reconcile(STORE)
    with monkeypatch.context() as patched:
        patched.setattr(made.cluster, "create", refuse)
        with pytest.raises(Refused):
            await made.reconciler.reconcile(MODEL_KEY)
    assert made.told("SLMModel", "m") == ("Refused", problem)
    assert made.condition("SLMModel", "m", "Stalled")["status"] == "True"
    await made.settle(succeed)
    assert made.condition("SLMModel", "m")["status"] == "True"


async def test_policies_of_an_earlier_claim_are_waited_for() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(lambda _: None)
    job = next(iter(made.running_jobs()))
    del made.cluster.objects[job]
    made.cluster.objects[STORE]["metadata"]["uid"] = "another"
    await made.reconciler.reconcile(MODEL_KEY)
    assert made.told("SLMModel", "m") == (
        "StoreNotReady",
        "The network policy slm-steps-offline of an earlier volume claim is still being removed.",
    )
