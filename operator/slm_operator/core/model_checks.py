"""Whether an SLMModel that another object names can be used for what it is named for."""

from collections.abc import Callable

from slm_contract.reasons import Reason
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.conclusion import build_work_digest
from slm_operator.core.conditions import Verdict, describe_state
from slm_operator.core.placement import Placement
from slm_operator.core.sequence import Blocked

ADAPTER_FORMAT, PROJECTOR_ARCHITECTURE = "lora", "clip"
"""What the status of an SLMModel calls the format of an adapter, and the architecture of a multimodal projector."""
Check = Callable[[str, SLMModel | None, Placement], Verdict | None]
"""Given the name, what it names and the placement: why it cannot be used, or None."""


def require_model(check: Check, name: str, model: SLMModel | None, placement: Placement) -> SLMModel:
    """The model; raises Blocked where the check has something against it."""
    verdict = check(name, model, placement)
    if verdict is not None:
        raise Blocked(verdict)
    assert model is not None  # noqa: S101 - every check begins with that
    return model


def check_model(name: str, model: SLMModel | None, placement: Placement) -> Verdict | None:
    """Why a referenced model cannot be served or quantized, or None."""
    if (missing := check_ready(name, model, placement)) is not None or model is None:
        return missing
    if model.status.format == ADAPTER_FORMAT:
        kind = "a LoRA adapter, which changes a model"
    elif model.status.architecture == PROJECTOR_ARCHITECTURE:
        kind = "a multimodal projector, which is loaded beside a model"
    else:
        return None
    message = f"SLMModel {name} is {kind} and is none by itself: name a model instead."
    return Verdict("stalled", Reason.FORMAT_MISMATCH, message)


def check_adapter(name: str, model: SLMModel | None, placement: Placement) -> Verdict | None:
    """Why a referenced SLMModel cannot be served as an adapter, or None."""
    missing = check_ready(name, model, placement)
    if missing is not None or model is None or model.status.format == ADAPTER_FORMAT:
        return missing
    message = f"SLMModel {name} is a model and no LoRA adapter: spec.adapters names those whose status.format is lora."
    return Verdict("stalled", Reason.FORMAT_MISMATCH, message)


def check_ready(name: str, model: SLMModel | None, placement: Placement) -> Verdict | None:
    """Why a referenced SLMModel cannot be used yet, or None.

    An edit that asks for no other weights takes nothing away, although nobody has looked at it yet. Of a model that is
    being worked on only the reason is told: its message changes with every percent, and this one would follow.
    """
    if model is None:
        message = f"SLMModel {name} does not exist in this namespace; apply it and this object goes on by itself."
        return Verdict("progressing", Reason.MODEL_NOT_FOUND, message)
    ready = next((item for item in model.status.conditions if item.type == "Ready"), None)
    same = model.status.work_digest == build_work_digest(model, placement)
    current = same or model.status.observed_generation == model.metadata.generation
    if ready is None or ready.status != "True" or not current:
        detail = describe_state(model.status.conditions) if current else "its spec has just changed"
        return Verdict("progressing", Reason.MODEL_NOT_READY, f"SLMModel {name} is not Ready: {detail}")
    return None
