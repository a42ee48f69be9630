"""GPUs of this machine, for ``slm doctor``: asked of the vendors' tools, and of the engine that would use them."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from slm_operator.cli.findings import Finding
from slm_operator.core.accelerator_tools import NVIDIA_SMI_QUERY, read_llama_devices, read_machine
from slm_operator.core.inventory import Accelerator
from slm_operator.core.quantity import format_bytes

TOOL_TIMEOUT_SECONDS = 20
"""A driver in trouble lets its tool wait for minutes."""
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "nvidia-smi": ("nvidia-smi", *NVIDIA_SMI_QUERY),
    "amd-smi": ("amd-smi", "static", "--asic", "--vram", "--json"),
    "rocm-smi": ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"),
}
ENGINE = "llama.cpp"
SHOWN_LENGTH = 200
"""Characters of a tool's complaint that are shown."""


def find_gpus(bench: Path | None) -> Finding:
    """What GPUs there are, and whether the llama.cpp to which ``bench`` (llama-bench) belongs uses them."""
    commands = {tool: command for tool, command in COMMANDS.items() if shutil.which(command[0])}
    if bench is not None:
        commands[ENGINE] = (str(bench), "--list-devices")
    if not commands:
        return Finding("ok", "gpu", f"not looked for, as there is no {', '.join(COMMANDS)} and no {ENGINE}")
    outputs: dict[str, str] = {}
    complaints: list[str] = []
    for tool, command in commands.items():
        output, complaint = _run(tool, command)
        outputs |= {tool: output} if not complaint else {}
        # An engine from before --list-devices complains of it: that says nothing about the machine.
        complaints += [complaint] if complaint and tool != ENGINE else []
    inventory = read_machine(outputs, memory_bytes=0, cpus=0)
    complaints += [note for note in inventory.notes if not note.startswith(ENGINE)]
    found = inventory.kinds[0].accelerators
    used = {item.vendor for item in read_llama_devices(outputs.get(ENGINE, ""))[0]}
    text = "; ".join([*(_describe(item, used) for item in found), *complaints])
    return Finding("warn" if complaints else "ok", "gpu", text or f"none found by {', '.join(commands)}")


def _run(tool: str, command: tuple[str, ...]) -> tuple[str, str]:
    """What a tool prints, or what is wrong with it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", f"{tool} does not answer: see whether the driver is loaded"
    if done.returncode:
        return "", f"{tool} failed: {' '.join((done.stdout + done.stderr).split())[-SHOWN_LENGTH:]}"
    return done.stdout, ""


def _describe(item: Accelerator, used: set[str]) -> str:
    count = f"{item.count} x " if item.count > 1 else ""
    memory = f" with {format_bytes(item.memory_bytes)}" if item.memory_bytes else ", which shares the machine's memory"
    free = f", {format_bytes(item.free_bytes)} free" if item.free_bytes else ""
    use = f"{ENGINE} uses it" if item.vendor in used else f"used only by a {ENGINE} built for it (SLM_LLAMA_CPP)"
    return f"{count}{item}{memory}{free}: {use}"
