"""Further SLMModels that a service names beside what it serves: waited for, converted, checked, remembered.

Engines load them as files of the store, by digest, so that another one rolls the engines.
"""

from collections.abc import Callable, Iterator, Mapping

from slm_contract import specs
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, ProjectorResult, SnapshotResult, VocabularyResult
from slm_operator.api.inferenceservice import CompanionStatus, InferenceService, InferenceServiceSpec
from slm_operator.api.slmmodel import SLMModel, SLMModelStatus
from slm_operator.core.conclusion import build_step_digest, is_done
from slm_operator.core.conditions import Verdict
from slm_operator.core.model_checks import Check, check_adapter, check_model, check_ready, require_model
from slm_operator.core.placement import VLLM
from slm_operator.core.resources import step_memory
from slm_operator.core.sequence import Blocked, Sequence
from slm_operator.core.service_snapshot import ServiceSnapshot

DRAFT, PROJECTOR = "draft", "projector"
"""Roles: what proposes tokens, and what makes embeddings of images and sound."""
CHECKED: Mapping[str, type[VocabularyResult | ProjectorResult]] = {DRAFT: VocabularyResult, PROJECTOR: ProjectorResult}
"""Role to what the step answers that holds its model against the served one."""
ADAPTER = "adapter/"
"""What the role of a LoRA adapter begins with; its name follows."""


def list_companions(spec: InferenceServiceSpec) -> dict[str, str]:
    """Role to the name of its SLMModel."""
    references = {DRAFT: spec.speculative.draft_model_ref if spec.speculative else None, PROJECTOR: spec.projector_ref}
    references |= {ADAPTER + each.name: each.model_ref for each in spec.adapters}
    return {role: reference.name for role, reference in references.items() if reference is not None}


def find_companions(snapshot: ServiceSnapshot) -> dict[str, SLMModel]:
    """Role to its SLMModel; raises Blocked until all of them are Ready, and where one is no GGUF's."""
    found = {}
    for role, name in list_companions(snapshot.service.spec).items():
        model = require_model(_check_of(role), name, snapshot.companions.get(name), snapshot.placement)
        if (why_not := model.status.conversion_message) and snapshot.service.spec.runtime != VLLM:
            message = f"SLMModel {name} cannot be loaded beside another, as no GGUF can be made of it. {why_not}"
            raise Blocked(Verdict("stalled", Reason.NOT_CONVERTIBLE, message))
        found[role] = model
    return found


def require_companions(
    snapshot: ServiceSnapshot, sequence: Sequence, models: Mapping[str, SLMModel], served: str, *, as_folders: bool
) -> Iterator[CompanionStatus]:
    """Each of ``models`` as it is loaded beside ``served``, a GGUF file's digest; raises Blocked until it is there.

    ``as_folders``: the engine reads their own files, and those of what is served.
    """
    for role, model in models.items():
        if as_folders:
            _require_rank(role, model)
            yield _link(snapshot, sequence, role, model.status)
        elif role.startswith(ADAPTER):
            yield _require_adapter(snapshot, sequence, role, model.status)
        else:
            yield _require(snapshot, sequence, role, model.status, served)


def tell_companions(service: InferenceService, found: Mapping[str, CompanionStatus]) -> list[CompanionStatus]:
    """What is known of those that the spec names: now, or else from before."""
    before = {each.role: each for each in service.status.companions}
    return [known for role in list_companions(service.spec) if (known := found.get(role) or before.get(role))]


def _require(
    snapshot: ServiceSnapshot, sequence: Sequence, role: str, model: SLMModelStatus, served: str
) -> CompanionStatus:
    """The model as a GGUF file, once it was held against ``served``."""
    service, placement, label = snapshot.service, snapshot.placement, f"convert-{role}"
    convert = specs.ConvertSpec(model=model.digest, store=placement.store)
    work = build_step_digest(service, placement, role, model.digest, served)
    before = _find_before(service, role)
    if is_done(before, work, snapshot.store):
        check = _build_check(role, served, before.digest, placement.store)
        sequence.keep(convert, label)
        sequence.keep(check, check.step)
        return before
    made = sequence.require(convert, label, ArtifactResult, step_memory(convert, model.shape, model.size_bytes))
    check = _build_check(role, served, made.blob, placement.store)
    sequence.require(check, check.step, CHECKED[role])
    return _remember(role, made, work, sequence)


def _require_adapter(
    snapshot: ServiceSnapshot, sequence: Sequence, role: str, adapter: SLMModelStatus
) -> CompanionStatus:
    """The adapter as a GGUF file for the model that is served, or that its variant was made of."""
    step = specs.AdaptSpec(adapter=adapter.digest, model=_require_base(snapshot), store=snapshot.placement.store)
    work = build_step_digest(snapshot.service, snapshot.placement, step.step, step.adapter, step.model)
    memory = step_memory(step, None, adapter.size_bytes)
    return _require_one(
        snapshot, sequence, role, work, step, lambda: sequence.require(step, step.step, ArtifactResult, memory)
    )


def _link(snapshot: ServiceSnapshot, sequence: Sequence, role: str, model: SLMModelStatus) -> CompanionStatus:
    """The model as a folder of its files, once it was held against the one that is served."""
    step = specs.SnapshotSpec(model=model.digest, beside=_require_base(snapshot), store=snapshot.placement.store)
    work = build_step_digest(snapshot.service, snapshot.placement, step.step, step.model, step.beside)
    return _require_one(snapshot, sequence, role, work, step, lambda: sequence.require(step, step.step, SnapshotResult))


def _require_rank(role: str, model: SLMModel) -> None:
    """An adapter's rank must be told to vLLM, and was not read before there was a field for it."""
    if role.startswith(ADAPTER) and not model.status.rank:
        name = model.metadata.name
        message = f"The rank of SLMModel {name} is not known: delete and apply it again, which fetches nothing anew."
        raise Blocked(Verdict("stalled", Reason.MODEL_NOT_READY, message))


def _require_one(
    snapshot: ServiceSnapshot, sequence: Sequence, role: str, work: str, step: specs.AnySpec,
    require: Callable[[], ArtifactResult | SnapshotResult],
) -> CompanionStatus:  # fmt: skip
    """What one step makes: as it is remembered, or once ``require`` has it."""
    before = _find_before(snapshot.service, role)
    if is_done(before, work, snapshot.store):
        sequence.keep(step, step.step)
        return before
    return _remember(role, require(), work, sequence)


def _require_base(snapshot: ServiceSnapshot) -> str:
    """Digest of the model that is served, or that a variant was made of; raises Blocked until it is there."""
    spec, job = snapshot.service.spec, snapshot.quant_job
    if spec.model_ref is None and snapshot.model is not None and job is not None and job.status.model_digest:
        return job.status.model_digest  # The SLMModel may be on its way to another revision.
    reference = spec.model_ref or (job.spec.model_ref if job else None)
    name = reference.name if reference else ""
    return require_model(check_model, name, snapshot.model, snapshot.placement).status.digest


def _check_of(role: str) -> Check:
    if role == PROJECTOR:
        return check_ready  # The step says which file is no projector.
    return check_adapter if role.startswith(ADAPTER) else check_model


def _find_before(service: InferenceService, role: str) -> CompanionStatus:
    return next((each for each in service.status.companions if each.role == role), CompanionStatus(role=role))


def _remember(role: str, made: ArtifactResult | SnapshotResult, work: str, sequence: Sequence) -> CompanionStatus:
    return CompanionStatus(
        role=role,
        digest=made.blob if isinstance(made, ArtifactResult) else made.manifest,
        size_bytes=made.size_bytes,
        work_digest=work,
        store_uid=sequence.store_uid,
    )


def _build_check(role: str, served: str, digest: str, store: str) -> specs.VocabularySpec | specs.ProjectorSpec:
    if role == DRAFT:
        return specs.VocabularySpec(gguf=served, draft=digest, store=store)
    return specs.ProjectorSpec(gguf=served, projector=digest, store=store)
