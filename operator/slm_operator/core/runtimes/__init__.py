"""One module per engine: what it loads, how it is started, when it is healthy, what it takes.

A third engine is a module beside these and a line in RUNTIMES.
"""

from collections.abc import Mapping
from typing import Protocol

from slm_operator.core.placement import LLAMA_CPP, VLLM, Program
from slm_operator.core.plan import Manifest
from slm_operator.core.runtimes import llama_cpp, vllm
from slm_operator.core.runtimes.order import Order, Overhead


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
