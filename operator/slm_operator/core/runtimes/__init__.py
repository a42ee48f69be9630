"""One module per engine: what it loads, how it is started, when it is healthy, what it takes.

Any other engine is a template in the settings.
"""

from collections.abc import Mapping
from typing import Protocol

from slm_operator.core.placement import LLAMA_CPP, VLLM, Placement, Program
from slm_operator.core.plan import Manifest
from slm_operator.core.runtimes import llama_cpp, vllm
from slm_operator.core.runtimes.order import Order, Overhead
from slm_operator.core.runtimes.template import TemplateRuntime


class Runtime(Protocol):
    """What every module of an engine offers."""

    def build_command(self, program: Program, order: Order) -> list[str]:
        """Argv, without the user's own arguments."""
        ...

    def build_variables(self, order: Order) -> dict[str, str]:
        """Environment variables, on a cluster beside those that every engine has."""
        ...

    def build_probes(self) -> Manifest:
        """Startup, readiness and liveness probe."""
        ...

    def overhead(self, order: Order) -> Overhead:
        """What a pod of it takes beside weights and KV cache."""
        ...


RUNTIMES: Mapping[str, Runtime] = {LLAMA_CPP: llama_cpp, VLLM: vllm}


def find_runtime(name: str, placement: Placement) -> Runtime:
    """The engine of that name, of ours or of the settings."""
    template = placement.templates.get(name)
    return TemplateRuntime(template, RUNTIMES[template.like].overhead) if template else RUNTIMES[name]


def loads_folders(name: str, placement: Placement) -> bool:
    """Whether an engine loads a folder of safetensors, and not one GGUF file."""
    template = placement.templates.get(name)
    return (template.like if template else name) == VLLM
