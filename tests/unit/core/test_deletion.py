"""What becomes of bytes when their object is deleted, and that nothing waits for ever."""

import json

from slm_contract.reasons import Reason
from slm_contract.results import CollectResult, Outcome, StepError
from slm_operator.core.manifests.metadata import FINALIZER
from slm_operator.core.plan import Manifest, ObjectKey
from tests.support.memory_cluster import STORE, Operated
from tests.support.planning import MODEL, QUANT, SERVICE, digest, manifest, succeed

MODEL_KEY = ObjectKey("SLMModel", "default", "m")
QUANT_KEY = ObjectKey("QuantJob", "default", "q")
COLLECTED = Outcome(result=CollectResult(removed_blobs=3, removed_bytes=9, kept_blobs=1))


def answer(label: str) -> Outcome | None:
    return COLLECTED if label == "collect" else succeed(label)


async def settled(*more: Manifest) -> Operated:
    made = Operated()
    await made.put(MODEL, *more)
    await made.settle(answer)
    return made


def collections(made: Operated) -> list[Manifest]:
    return [item for key, item in made.cluster.objects.items() if key.kind == "Job" and "collect" in key.name]


def spec_of(job: Manifest) -> Manifest:
    container = job["spec"]["template"]["spec"]["containers"][0]
    found: Manifest = json.loads(container["env"][0]["value"])
    return found


async def test_an_object_is_held_only_once_bytes_may_exist() -> None:
    made = Operated()
    await made.put(MODEL)
    await made.settle(lambda label: succeed(label) if label == "resolve" else None)
    writes = made.cluster.writes
    assert FINALIZER in made.cluster.objects[MODEL_KEY]["metadata"]["finalizers"]
    held = writes.index("finalizers SLMModel/m")
    assert [write for write in writes[held:] if write.startswith("create Job")] == [
        write for write in writes if "-acquire-" in write
    ]
    early = Operated()
    await early.put(MODEL)
    await early.settle(lambda _: None)
    assert not early.cluster.objects[MODEL_KEY]["metadata"].get("finalizers")
    await early.cluster.delete(MODEL_KEY)
    assert MODEL_KEY not in early.cluster.objects


async def test_a_deleted_model_is_collected_with_the_roots_of_all_others_and_goes() -> None:
    made = await settled(QUANT, SERVICE)
    await made.cluster.delete(MODEL_KEY)
    await made.settle(lambda label: None if label == "collect" else succeed(label))
    assert made.told("SLMModel", "m") == ("Deleting", "Deleted; the store is being cleaned.")
    assert made.condition("SLMModel", "m", "Reconciling")["status"] == "True"
    (job,) = collections(made)
    spec = spec_of(job)
    # The QuantJob still refers to what it was made of, and the service to its blob.
    assert {digest("model"), digest("mQ4_0"), digest("bQ4_0"), digest("report")} <= set(spec["roots"])
    assert spec["keptSince"] == made.cluster.time.timestamp()
    assert job["metadata"]["ownerReferences"][0]["uid"] == made.cluster.objects[STORE]["metadata"]["uid"]
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["ttlSecondsAfterFinished"]) == (600, 3600)
    assert made.told("QuantJob", "q") == (
        "ModelNotFound",
        "SLMModel m does not exist in this namespace; apply it and this object goes on by itself.",
    )
    await made.settle(answer)
    assert MODEL_KEY not in made.cluster.objects
    assert made.cluster.objects[QUANT_KEY]["status"]["variants"][1]["blob"] == digest("bQ4_0")
    assert [event for event in made.cluster.events if event.reason == Reason.STORE_NOT_CLEANED] == []


async def test_the_last_objects_leave_no_roots_though_an_engine_is_still_ending() -> None:
    made = await settled(QUANT, SERVICE)
    engine = ObjectKey("Deployment", "default", "s")
    ending = made.cluster.objects[engine]
    for key in (ObjectKey("InferenceService", "default", "s"), MODEL_KEY, QUANT_KEY):
        await made.cluster.delete(key)
    made.cluster.objects[engine] = ending
    await made.look()
    (job,) = collections(made)
    assert spec_of(job)["roots"] == []


async def test_many_deletions_share_one_collection() -> None:
    made = await settled(*(manifest("QuantJob", f"q{number}", QUANT["spec"]) for number in range(5)))
    made.cluster.wait(10)
    for number in range(5):
        await made.cluster.delete(ObjectKey("QuantJob", "default", f"q{number}"))
    made.cluster.wait(10)
    await made.settle(answer)
    assert len(collections(made)) == 1
    assert [key.name for key in made.cluster.objects if key.kind == "QuantJob"] == []


async def test_a_collection_from_before_the_deletion_does_not_count() -> None:
    made = await settled(QUANT)
    await made.cluster.delete(QUANT_KEY)
    await made.settle(answer)
    assert len(collections(made)) == 1
    made.cluster.wait(100)
    await made.cluster.delete(MODEL_KEY)
    await made.settle(answer)
    assert len(collections(made)) == 2
    assert MODEL_KEY not in made.cluster.objects


async def test_its_own_steps_are_ended_first_and_their_pods_waited_for() -> None:
    made = await settled()
    await made.put(QUANT)
    await made.settle(lambda label: succeed(label) if label == "convert" else None)
    (job,) = made.running_jobs()
    pod = made.cluster.start_pod(job)
    await made.cluster.delete(QUANT_KEY)
    await made.reconciler.reconcile(QUANT_KEY)
    assert job not in made.cluster.objects
    assert made.told("QuantJob", "q") == ("Deleting", "Deleted; its steps are being ended.")
    key = ObjectKey("Pod", "default", pod["metadata"]["name"])
    made.cluster.objects[key] = pod  # Its Job is gone, and yet the kubelet is still ending it.
    await made.look()
    assert collections(made) == []
    del made.cluster.objects[key]
    await made.settle(answer)
    assert QUANT_KEY not in made.cluster.objects


async def test_it_waits_for_steps_of_others_and_no_step_begins_while_the_store_is_cleaned() -> None:
    made = await settled(QUANT)
    await made.put(manifest("QuantJob", "other", {**QUANT["spec"], "variants": ["Q5_1"]}))
    await made.settle(lambda label: succeed(label) if label == "convert" else None)
    (busy,) = made.running_jobs()
    await made.cluster.delete(QUANT_KEY)
    assert await made.reconciler.reconcile(QUANT_KEY) == 5
    assert made.told("QuantJob", "q") == ("Deleting", f"Deleted; steps of others write to the store: {busy.name}.")
    made.cluster.finish(busy, succeed("quantize-Q5_1"))
    await made.reconciler.reconcile(QUANT_KEY)
    assert len(collections(made)) == 1
    await made.look()
    assert made.told("QuantJob", "other") == (
        "StoreBusy",
        "The store is being cleaned, and nothing else may write to it meanwhile. It goes on in a moment.",
    )
    # What the other step has made is known to no status yet, but its Pod tells it.
    assert digest("mQ5_1") in spec_of(collections(made)[0])["roots"]
    await made.settle(answer)
    assert made.told("QuantJob", "other")[0] == "Succeeded"


async def test_nothing_waits_longer_than_ten_minutes() -> None:
    made = await settled(QUANT)
    await made.cluster.delete(QUANT_KEY)
    await made.settle(lambda _: None)
    made.cluster.wait(599)
    await made.look()
    assert QUANT_KEY in made.cluster.objects
    made.cluster.wait(1)
    await made.look()
    assert QUANT_KEY not in made.cluster.objects
    assert (made.cluster.events[-1].type, made.cluster.events[-1].message) == (
        "Warning",
        (
            "Bytes that only this object used may remain in the store, because it took longer than 600 s. "
            "The next deletion removes them."
        ),
    )


async def test_a_collection_that_fails_lets_the_object_go_and_says_so() -> None:
    made = await settled(QUANT)
    await made.cluster.delete(QUANT_KEY)
    problem = Outcome(error=StepError(reason=Reason.STORE_BUSY, message="The store is in use."))
    await made.settle(lambda _: problem)
    assert QUANT_KEY not in made.cluster.objects
    assert made.cluster.events[-1].reason == "StoreNotCleaned"
    assert "because the collection failed: The store is in use." in made.cluster.events[-1].message


async def test_without_a_claim_the_object_goes_at_once() -> None:
    made = await settled(QUANT)
    del made.cluster.objects[STORE]
    await made.cluster.delete(QUANT_KEY)
    await made.reconciler.reconcile(QUANT_KEY)
    assert QUANT_KEY not in made.cluster.objects
    assert "because there is no volume claim slm-store" in made.cluster.events[-1].message


async def test_a_namespace_that_ends_is_never_held_up() -> None:
    made = await settled(QUANT, SERVICE)
    made.cluster.ending = True
    for key in (MODEL_KEY, QUANT_KEY):
        await made.cluster.delete(key)
    await made.look()
    assert [key for key in made.cluster.objects if key.kind in ("SLMModel", "QuantJob")] == []


async def test_an_object_that_cannot_be_parsed_any_more_still_goes() -> None:
    made = await settled(QUANT)
    made.cluster.objects[QUANT_KEY]["spec"] = {"nonsense": True}
    await made.cluster.delete(QUANT_KEY)
    await made.settle(answer)
    assert QUANT_KEY not in made.cluster.objects


async def test_finalizers_of_others_stay() -> None:
    made = await settled()
    meta = made.cluster.objects[MODEL_KEY]["metadata"]
    meta["finalizers"] = ["example.com/audit", *meta["finalizers"]]
    await made.cluster.delete(MODEL_KEY)
    await made.settle(answer)
    assert made.cluster.objects[MODEL_KEY]["metadata"]["finalizers"] == ["example.com/audit"]
