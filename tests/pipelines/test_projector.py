"""A projector is held against the model that it makes embeddings for."""

from pathlib import Path

import pytest

from slm_contract import exitcodes
from slm_contract.results import Outcome
from slm_contract.specs import ProjectorSpec
from slm_pipelines.__main__ import run_step
from slm_pipelines.store import Store
from tests.support.engine import write_model
from tests.support.projector import write_projector

WIDTH = 256


def compare(tmp_path: Path, projector: Path) -> tuple[int, Outcome]:
    store = Store(tmp_path / "store")
    served = store.add_file(write_model(tmp_path / "served.gguf", WIDTH), "served.gguf")
    beside = store.add_file(projector, "mmproj.gguf")
    return run_step("projector", ProjectorSpec(gguf=served.digest, projector=beside.digest, store=str(store.folder)))


@pytest.mark.parametrize(("width", "kind"), [(WIDTH, "mmproj"), (768, "model")], ids=["now", "an older file"])
def test_a_projector_of_the_models_width_is_taken(tmp_path: Path, width: int, kind: str) -> None:
    code, outcome = compare(tmp_path, write_projector(tmp_path / "p.gguf", width, kind=kind))
    assert (code, outcome.error) == (exitcodes.OK, None)
    assert outcome.result is not None
    assert outcome.result.model_dump() == {"step": "projector", "kinds": ["vision"]}


def check_refused(code: int, outcome: Outcome, difference: str) -> None:
    assert code == exitcodes.BAD_INPUT
    assert outcome.error is not None
    assert outcome.error.reason == "ProjectorMismatch"
    assert outcome.error.message == (
        f"The projector cannot be loaded beside the served model: {difference}. Name the projector of this very model "
        "in spec.projectorRef, or leave it out."
    )


def test_one_of_another_width_is_refused_with_both_widths(tmp_path: Path) -> None:
    code, outcome = compare(tmp_path, write_projector(tmp_path / "p.gguf", 128))
    check_refused(code, outcome, "it makes embeddings of 128 elements, and the model's have 256")


def test_a_model_is_no_projector(tmp_path: Path) -> None:
    code, outcome = compare(tmp_path, write_model(tmp_path / "other.gguf", 128))
    check_refused(code, outcome, "its architecture is llama, and it projects neither images nor sound")
