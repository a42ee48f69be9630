"""An outcome fits a termination message whatever it quotes, and tells the step's own memory."""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from slm_contract import exitcodes
from slm_contract.bounds import MAX_LABEL_BYTES, MAX_OUTCOME_BYTES, clip
from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult, Outcome, ResolveResult
from slm_contract.specs import LocalPath, ModelFile, ResolveSpec, Source
from slm_pipelines.__main__ import main, run_step
from slm_pipelines.errors import BadInput
from slm_pipelines.steps import resolve
from tests.support.models import write_model
from tests.support.planning import SHAPE

SPEC = ResolveSpec(source=Source(path=LocalPath(path="/none")))
HELD_BYTES = 512 << 20
ANY_TEXT = st.one_of(
    st.text(st.characters()),  # Lone surrogates too.
    st.builds(lambda letter, count: letter * count, st.characters(), st.integers(0, 20_000)),
)


@given(ANY_TEXT, st.sampled_from(["bad input", "fault", "bug"]))
def test_an_error_fits_whatever_its_sentence_quotes(text: str, kind: str) -> None:
    errors = {"bad input": BadInput(Reason.INVALID_CONFIG, text), "fault": OSError(text), "bug": KeyError(text)}
    with patch("slm_pipelines.steps.resolve.run", side_effect=errors[kind]):
        code, outcome = run_step("resolve", SPEC)
    codes = {"bad input": exitcodes.BAD_INPUT, "fault": exitcodes.RETRYABLE, "bug": exitcodes.INTERNAL}
    assert code == codes[kind]
    assert len(outcome.encode()) <= MAX_OUTCOME_BYTES
    assert Outcome.model_validate_json(outcome.encode()) == outcome


@given(ANY_TEXT, ANY_TEXT, st.integers(0, 200))
def test_a_resolved_model_fits_whatever_it_calls_itself(licence: str, architecture: str, count: int) -> None:
    files = [ModelFile(name=f"{index:0200}", size_bytes=1, digest="sha256:" + "0" * 64) for index in range(count)]
    found = ResolveResult.model_construct(
        revision="f" * 64, format="safetensors", architecture=architecture, parameters=1 << 63, license=licence,
        context_length=1 << 64, size_bytes=1 << 63, file_count=count, files=files, shape=SHAPE,
    )  # fmt: skip
    with patch("slm_pipelines.steps.resolve.run", return_value=resolve.fit(found)):
        code, outcome = run_step("resolve", SPEC)
    assert code == exitcodes.OK
    assert len(outcome.encode()) <= MAX_OUTCOME_BYTES
    assert len(outcome.result.files) in {0, count}  # type: ignore[union-attr]


def test_a_result_that_does_not_fit_is_a_bug_with_a_sentence() -> None:
    digest = "sha256:" + "0" * 64
    huge = ArtifactResult(step="convert", manifest=digest, blob=digest, size_bytes=1, cached=False, tool="t" * 5000)
    with patch("slm_pipelines.steps.resolve.run", return_value=huge):
        code, outcome = run_step("resolve", SPEC)
    assert code == exitcodes.INTERNAL
    assert outcome.result is None
    assert outcome.error is not None
    assert outcome.error.reason is Reason.INTERNAL_ERROR
    assert outcome.error.message == "resolve hit a bug: its result does not fit a termination message."


def test_a_malformed_spec_of_any_length_is_answered_in_a_message_that_fits(tmp_path: Path) -> None:
    spec, result = tmp_path / "spec.json", tmp_path / "result.json"
    spec.write_text(json.dumps({f"field{index}": 1 for index in range(1000)}))
    assert main(["resolve", "--spec", str(spec), "--result", str(result)]) == exitcodes.USAGE
    assert len(result.read_bytes()) <= MAX_OUTCOME_BYTES
    assert json.loads(result.read_text())["error"]["message"].startswith("The spec of resolve cannot be used: ")


def test_a_sentence_keeps_its_beginning_and_its_end() -> None:
    assert clip("short", 100) == "short"
    long = clip("begin " + "x" * 5000 + " correct it.", MAX_LABEL_BYTES)
    assert long.startswith("begin xxx")
    assert "x…x" in long
    assert long.endswith("xxx correct it.")
    assert len(long.encode()) == MAX_LABEL_BYTES


def test_a_step_does_not_count_the_memory_of_whoever_started_it(tmp_path: Path) -> None:
    spec = {"source": {"path": {"path": str(write_model(tmp_path / "model"))}}}
    held = bytearray(HELD_BYTES)
    held[::4096] = b"x" * (HELD_BYTES // 4096)
    command = [sys.executable, "-m", "slm_pipelines", "resolve", "--spec", "-"]
    done = subprocess.run(command, input=json.dumps(spec), capture_output=True, text=True, check=True)
    del held
    peak = json.loads(done.stdout.splitlines()[-1])["peakMemoryBytes"]
    assert 10 << 20 < peak < HELD_BYTES
