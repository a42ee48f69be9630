from io import StringIO

import pytest
from rich.console import Console

from slm_operator.cli.exits import CommandFailed
from slm_operator.cli.progress import Display, build_bars, check_stalled, format_amount
from slm_operator.ports import Manifest, ObjectKey

KEY = ObjectKey("SLMModel", "default", "tiny")
MODEL: Manifest = {"kind": "SLMModel", "metadata": {"name": "tiny", "generation": 1}, "status": {}}
MIB = 1 << 20


def pod(done: int) -> Manifest:
    progress = {"step": "acquire", "message": "fetching model.safetensors", "done": done, "total": 100 * MIB}
    return {
        "metadata": {"name": "tiny-acquire-1"},
        "status": {"phase": "Running", "progress": {**progress, "unit": "bytes"}},
    }


def test_a_bar_shows_bytes_rate_and_time_left() -> None:
    now, out = 0.0, StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    bars = build_bars(console, lambda: now)
    display = Display(bars)
    for second in range(6):
        now = float(second)
        display.show(KEY, MODEL, [pod(second * 10 * MIB)])
    console.print(bars.get_renderable())
    line = out.getvalue()
    for text in ("fetching model.safetensors", "50%", "50.0 MiB of 100.0 MiB", "10.0 MiB/s", "0:00:05"):
        assert text in line


def test_where_no_bar_can_be_drawn_a_step_prints_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(None)
    for percent in range(101):
        display.show(KEY, MODEL, [pod(percent * MIB)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  fetching model.safetensors: 0 B of 100.0 MiB"
    assert "  fetching model.safetensors: 25.0 MiB of 100.0 MiB" in lines
    assert len(lines) == 6


def test_amounts_say_what_is_counted() -> None:
    assert format_amount(3, 8, "tensors") == "3 of 8 tensors"
    assert format_amount(3, 0, "bytes") == ""


def stalled(name: str, reason: str, generation: int = 1) -> Manifest:
    condition = {"type": "Stalled", "status": "True", "reason": reason, "message": "see", "observedGeneration": 1}
    return {"metadata": {"name": name, "generation": generation}, "status": {"conditions": [condition]}}


JOB = ObjectKey("QuantJob", "default", "tiny-q4-0")
SERVICE = ObjectKey("InferenceService", "default", "tiny")


def test_a_stalled_model_ends_the_wait_with_its_reason_unless_its_spec_changed_since() -> None:
    with pytest.raises(CommandFailed, match=r"slmmodel\.slm\.dev/tiny: LicenseRefused: see"):
        check_stalled([KEY, SERVICE], [stalled("tiny", "LicenseRefused"), MODEL])
    check_stalled([KEY], [stalled("tiny", "LicenseRefused", generation=2)])


def test_a_stalled_job_ends_the_wait_only_when_the_service_is_stalled_too() -> None:
    job = stalled("tiny-q4-0", "InvalidModel")
    check_stalled([KEY, JOB, SERVICE], [MODEL, job, MODEL])
    with pytest.raises(CommandFailed, match=r"quantjob\.slm\.dev/tiny-q4-0: InvalidModel: see"):
        check_stalled([KEY, JOB, SERVICE], [MODEL, job, stalled("tiny", "VariantNotAvailable")])
