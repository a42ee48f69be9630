"""A further engine: the words of its command line and its variables stand in the settings."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from slm_operator.core.placement import EngineTemplate, Program
from slm_operator.core.plan import Manifest
from slm_operator.core.runtimes.order import CONTAINED, Order, Overhead, build_probes

PLACE = re.compile(r"\$\(([A-Z_]+)\)")


@dataclass(frozen=True)
class TemplateRuntime:
    """What ``Runtime`` asks of a module, from a template."""

    template: EngineTemplate
    measure: Callable[[Order], Overhead]
    """What the engine takes that it is like."""

    def build_command(self, program: Program, order: Order) -> list[str]:
        """Argv with what is known of the order in its places; Kubernetes fills in PORT, and CPUS."""
        return [_fill(word, order) for word in program.command]

    def build_variables(self, order: Order) -> dict[str, str]:
        """The template's, filled in like the command line, with a home that can be written."""
        given = {name: _fill(value, order) for name, value in self.template.variables.items()}
        return {**CONTAINED, **given}

    def build_probes(self) -> Manifest:
        """Probes of the template's path."""
        return build_probes(self.template.start_seconds, self.template.health_path)

    def overhead(self, order: Order) -> Overhead:
        """As of the engine that it is like."""
        return self.measure(order)


def _fill(text: str, order: Order) -> str:
    places = {
        "MODEL": order.model,
        "NAME": order.alias,
        "HOST": order.host,
        "CONTEXT": str(order.context_size),
        "SLOTS": str(order.parallel),
        "TOKENS": str(order.context_size * order.parallel),
        "GPUS": str(max(1, order.devices)),
        "THREADS": order.workers,
    }
    return PLACE.sub(lambda place: places.get(place[1], place[0]), text)
