"""The one place where parts are wired together."""

import os
import shutil
import sys
from datetime import UTC, datetime

from slm_operator.core.placement import CPU, LLAMA_CPP, VLLM, ClusterPods, EngineTemplate, Placement, Program
from slm_operator.ports import Clock, Cluster, Observer
from slm_operator.reconcile.autoscaler import Autoscaler
from slm_operator.reconcile.controller import Controller
from slm_operator.reconcile.reconciler import Reconciler
from slm_operator.settings import DEVICES, OperatorSettings, Settings

STORE_FOLDER = "/store"
"""Where pods see their namespace's store."""


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
        engines=build_local_engines(settings),
        machine_cpus=available_cpus(),
        hub_endpoint=settings.hub_endpoint,
        allow_private_hosts=tuple(settings.allow_private_hosts),
        own_hub_token=True,
    )


def build_local_engines(settings: Settings) -> dict[tuple[str, str], Program]:
    """llama.cpp as the pipelines find or install it, and vLLM where it is installed."""
    llama_cpp = (sys.executable, "-m", "slm_pipelines.tools.llama_cpp", "exec", "llama-server")
    engines = {(LLAMA_CPP, CPU): Program(llama_cpp)}
    if vllm := settings.vllm or shutil.which("vllm"):
        engines[VLLM, CPU] = Program((str(vllm), "serve"))
    return engines


def build_cluster_engines(settings: OperatorSettings) -> dict[tuple[str, str], Program]:
    """The engines for which there is an image."""
    commands = {LLAMA_CPP: ("llama-server",), VLLM: ("vllm", "serve")}
    images = {(LLAMA_CPP, CPU): settings.engine_image, **settings.engine_images}
    further = {
        (name, DEVICES[device]): Program(tuple(runtime.command), image)
        for name, runtime in settings.runtimes.items()
        for device, image in runtime.images.items()
    }
    return {key: Program(commands[key[0]], image) for key, image in images.items()} | further


def build_templates(settings: OperatorSettings) -> dict[str, EngineTemplate]:
    """How the engines are started that the settings bring."""
    likes = {"gguf": LLAMA_CPP, "safetensors": VLLM}
    return {
        name: EngineTemplate(likes[each.format], each.variables, each.health_path, each.start_seconds)
        for name, each in settings.runtimes.items()
    }


def build_cluster_placement(settings: OperatorSettings) -> Placement:
    """Children as pods of the project's images, with the store as a volume."""
    return Placement(
        store=STORE_FOLDER,
        pipeline_command=("python3", "-m", "slm_pipelines"),
        engines=build_cluster_engines(settings),
        templates=build_templates(settings),
        machine_cpus=0,
        listen_host="0.0.0.0",  # noqa: S104 - a pod has its own address, and a NetworkPolicy
        hub_endpoint=settings.hub_endpoint,
        allow_private_hosts=settings.allow_private_hosts,
        image=settings.pipelines_image,
        pods=ClusterPods(
            claim=settings.store_claim,
            storage=settings.store_size,
            storage_class=settings.store_class,
            access_mode=settings.store_access_mode,
            image_pull_policy=settings.image_pull_policy,
            image_pull_secrets=settings.image_pull_secrets,
            gateway_namespace=settings.gateway_account.partition("/")[0],
            engine_callers=settings.engine_callers,
        ),
    )


def build_controller(
    cluster: Cluster,
    placement: Placement,
    observer: Observer | None = None,
    clock: Clock | None = None,
    autoscaler: Autoscaler | None = None,
) -> Controller:
    """The controller of all three kinds over a backend; without a ``clock`` the machine's counts."""
    autoscaler = autoscaler or Autoscaler()
    reconciler = Reconciler(cluster, clock or SystemClock(), placement, observer, autoscaler)
    controller = Controller(cluster, reconciler, observer)
    autoscaler.wake = controller.look_at
    return controller
