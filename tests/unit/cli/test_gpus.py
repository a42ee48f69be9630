"""What `slm doctor` says of GPUs, with tools that are scripts on PATH."""

from pathlib import Path

import pytest

from slm_operator.cli import gpus
from slm_operator.cli.findings import Finding
from slm_operator.cli.gpus import find_gpus


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write_tool(folder: Path, name: str, output: str, code: int = 0) -> Path:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\nwhile read -r line; do echo \"$line\"; done <<'END'\n{output}\nEND\nexit {code}\n")
    tool.chmod(0o755)
    return tool


def test_without_any_tool_it_says_that_it_did_not_look(tools: Path) -> None:
    assert list(tools.iterdir()) == []
    text = "not looked for, as there is no nvidia-smi, amd-smi, rocm-smi and no llama.cpp"
    assert find_gpus(None) == Finding("ok", "gpu", text)


def test_it_says_by_what_it_found_none(tools: Path) -> None:
    bench = write_tool(tools, "llama-bench", "Available devices:\n  (none)")
    assert find_gpus(bench) == Finding("ok", "gpu", "none found by llama.cpp")


def test_a_gpu_that_the_engine_does_not_use_is_told_with_what_to_do(tools: Path) -> None:
    write_tool(tools, "nvidia-smi", "NVIDIA A10G, 23028 MiB, 22515 MiB\nNVIDIA A10G, 23028 MiB, 22000 MiB")
    bench = write_tool(tools, "llama-bench", "Available devices:\n  (none)")
    text = "2 x NVIDIA A10G with 22.49 GiB, 21.48 GiB free: used only by a llama.cpp built for it (SLM_LLAMA_CPP)"
    assert find_gpus(bench) == Finding("ok", "gpu", text)


def test_a_gpu_that_the_engine_lists_is_used_by_it(tools: Path) -> None:
    write_tool(tools, "nvidia-smi", "Orin (nvgpu), [N/A], [N/A]")
    bench = write_tool(tools, "llama-bench", "Available devices:\n  CUDA0: NVIDIA Orin (15656 MiB, 9000 MiB free)")
    text = "NVIDIA Orin (nvgpu), which shares the machine's memory: llama.cpp uses it"
    assert find_gpus(bench) == Finding("ok", "gpu", text)


def test_an_engine_that_knows_no_devices_is_no_complaint(tools: Path) -> None:
    bench = write_tool(tools, "llama-bench", "error: invalid parameter for argument: --list-devices", 1)
    assert find_gpus(bench) == Finding("ok", "gpu", "none found by llama.cpp")


def test_a_tool_that_fails_is_a_warning_with_its_words(tools: Path) -> None:
    write_tool(tools, "nvidia-smi", "NVIDIA-SMI has failed because it couldn't communicate with the driver.", 9)
    text = "nvidia-smi failed: NVIDIA-SMI has failed because it couldn't communicate with the driver."
    assert find_gpus(None) == Finding("warn", "gpu", text)


def test_output_that_is_not_understood_is_a_warning(tools: Path) -> None:
    write_tool(tools, "rocm-smi", "ERROR: no device")
    assert find_gpus(None) == Finding("warn", "gpu", "rocm-smi: 'ERROR: no device' is no JSON.")


def test_a_tool_that_does_not_answer_is_a_warning(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tools / "amd-smi"
    tool.write_text("#!/bin/sh\nwhile :; do :; done\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpus, "TOOL_TIMEOUT_SECONDS", 0.2)
    assert find_gpus(None) == Finding("warn", "gpu", "amd-smi does not answer: see whether the driver is loaded")
