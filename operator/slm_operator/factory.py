"""The one place where parts are wired together."""

import os
import sys
from datetime import UTC, datetime

from slm_operator.core.placement import Placement
from slm_operator.ports import Cluster
from slm_operator.reconcile.controller import Controller
from slm_operator.reconcile.reconciler import Reconciler
from slm_operator.settings import Settings


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current time, UTC."""
        return datetime.now(UTC)


def available_cpus() -> int:
    """CPUs this process may be scheduled on."""
    return len(os.sched_getaffinity(0))


def build_local_placement(settings: Settings, store: str) -> Placement:
    """Children as processes of this Python: the pipelines, and llama-server through their locator."""
    python = sys.executable
    return Placement(
        store=store,
        pipeline_command=(python, "-m", "slm_pipelines"),
        engine_command=(python, "-m", "slm_pipelines.tools.llama_cpp", "exec", "llama-server"),
        machine_cpus=available_cpus(),
        hub_endpoint=settings.hub_endpoint,
        allow_private_hosts=tuple(settings.allow_private_hosts),
        own_hub_token=True,
    )


def build_controller(cluster: Cluster, placement: Placement) -> Controller:
    """The controller of all three kinds over a backend."""
    return Controller(cluster, Reconciler(cluster, SystemClock(), placement))
