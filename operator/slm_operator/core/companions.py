"""Further SLMModels that a service names beside what it serves: waited for, converted, checked, remembered.

Engines load them as files of the store, by digest, so that another one rolls the engines.
"""

from collections.abc import Iterator, Mapping

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, VocabularyResult
from slm_operator.api.inferenceservice import CompanionStatus, InferenceService, InferenceServiceSpec
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.conclusion import build_step_digest, is_done
from slm_operator.core.conditions import Verdict
from slm_operator.core.plan_quantjob import check_model
from slm_operator.core.resources import step_memory
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.service_snapshot import ServiceSnapshot

DRAFT = "draft"
"""Role of the model that proposes tokens."""


def list_companions(spec: InferenceServiceSpec) -> dict[str, str]:
    """Role to the name of its SLMModel."""
    return {DRAFT: spec.speculative.draft_model_ref.name} if spec.speculative else {}


def find_companions(snapshot: ServiceSnapshot) -> dict[str, SLMModel]:
    """Role to its SLMModel; raises Blocked until all of them are Ready, and where one is no GGUF's."""
    found = {}
    for role, name in list_companions(snapshot.service.spec).items():
        model = snapshot.companions.get(name)
        missing = check_model(name, model, snapshot.placement)
        if missing is not None or model is None:
            raise Blocked(missing or Verdict("progressing", Reason.MODEL_NOT_FOUND, ""))
        if why_not := model.status.conversion_message:
            message = f"SLMModel {name} cannot be loaded beside another, as no GGUF can be made of it. {why_not}"
            raise Blocked(Verdict("stalled", Reason.NOT_CONVERTIBLE, message))
        found[role] = model
    return found


def require_companions(
    snapshot: ServiceSnapshot, sequence: Sequence, models: Mapping[str, SLMModel], served: str
) -> Iterator[CompanionStatus]:
    """Each of ``models`` as a file beside ``served``, the digest of the GGUF file; raises Blocked until it is there."""
    if DRAFT in models:
        yield _require_draft(snapshot, sequence, models[DRAFT], served)


def tell_companions(service: InferenceService, found: Mapping[str, CompanionStatus]) -> list[CompanionStatus]:
    """What is known of those that the spec names: now, or else from before."""
    before = {each.role: each for each in service.status.companions}
    return [known for role in list_companions(service.spec) if (known := found.get(role) or before.get(role))]


def _require_draft(snapshot: ServiceSnapshot, sequence: Sequence, draft: SLMModel, served: str) -> CompanionStatus:
    """The draft model as a GGUF file, once its vocabulary was found to be that of ``served``."""
    service, placement, model = snapshot.service, snapshot.placement, draft.status
    convert = specs.ConvertSpec(model=model.digest, store=placement.store)
    work = build_step_digest(service, placement, DRAFT, model.digest, served)
    before = next((each for each in service.status.companions if each.role == DRAFT), CompanionStatus(role=DRAFT))
    if is_done(before, work, snapshot.store):
        sequence.keep(convert, "convert-draft")
        sequence.keep(specs.VocabularySpec(gguf=served, draft=before.digest, store=placement.store), "vocabulary")
        return before
    memory = step_memory(convert, model.shape, model.size_bytes)
    made = sequence.require(convert, "convert-draft", ArtifactResult, memory)
    check = specs.VocabularySpec(gguf=served, draft=made.blob, store=placement.store)
    sequence.require(check, "vocabulary", VocabularyResult)
    return CompanionStatus(
        role=DRAFT,
        digest=made.blob,
        size_bytes=made.size_bytes,
        work_digest=work,
        store_uid=sequence.store_uid,
    )
