"""Hold a multimodal projector against the model whose embeddings it makes, before an engine is started."""

from typing import Literal

from slm_contract.reasons import Reason
from slm_contract.results import ProjectorResult
from slm_contract.specs import ProjectorSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.gguf_header import GgufHeader, read_gguf
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Store

ARCHITECTURE = "clip"
"""What llama.cpp calls every projector, whatever it is made of."""
KINDS: tuple[Literal["vision", "audio"], ...] = ("vision", "audio")
TYPE = "mmproj"
"""``general.type`` where ``projection_dim`` is the model's width: older files hold another figure there."""


def run(spec: ProjectorSpec, reporter: Reporter) -> ProjectorResult:
    """Compare the two; raises BadInput (ProjectorMismatch, InvalidGguf) and Retryable StoreCorrupt."""
    reporter.report("Comparing widths")
    store = Store(spec.store)
    served = read_gguf(store.require(spec.gguf, "The served model"), "The served model")
    projector = read_gguf(store.require(spec.projector, "The projector"), "The projector")
    kinds = [kind for kind in KINDS if projector.metadata.get(f"clip.has_{kind}_encoder")]
    if problem := _find_problem(served, projector, kinds):
        message = (
            f"The projector cannot be loaded beside the served model: {problem}. Name the projector of this very model "
            "in spec.projectorRef, or leave it out."
        )
        raise BadInput(Reason.PROJECTOR_MISMATCH, message)
    return ProjectorResult(kinds=kinds)


def _find_problem(served: GgufHeader, projector: GgufHeader, kinds: list[Literal["vision", "audio"]]) -> str:
    """Half a sentence, or nothing."""
    if projector.architecture != ARCHITECTURE or not kinds:
        return f"its architecture is {projector.architecture}, and it projects neither images nor sound"
    if projector.metadata.get("general.type") != TYPE:
        return ""
    width = served.metadata.get(f"{served.architecture}.embedding_length")
    for kind in kinds:
        made = projector.metadata.get(f"clip.{kind}.projection_dim", width)
        if made != width:
            return f"it makes embeddings of {made} elements, and the model's have {width}"
    return ""
