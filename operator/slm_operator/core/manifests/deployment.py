"""The Deployment of engines, the Service in front of them, and what spreads and protects them."""

from collections.abc import Iterable
from dataclasses import dataclass

from slm_operator.api.inferenceservice import AcceleratorStatus, InferenceService
from slm_operator.api.meta import GROUP
from slm_operator.core.manifests.accelerator import add_devices, build_demands
from slm_operator.core.manifests.metadata import LABEL_STEP, MAX_CHILD_NAME, SERVE, build_labels, build_metadata
from slm_operator.core.manifests.network import ENGINE_PORT
from slm_operator.core.manifests.pod import PodShape, build_pod_template
from slm_operator.core.placement import Placement, Program
from slm_operator.core.plan import Manifest
from slm_operator.core.pods import is_ready
from slm_operator.core.resources import Memory, engine_memory, fill_resources, with_room
from slm_operator.core.runtimes import find_runtime, loads_folders
from slm_operator.core.runtimes.order import CPUS_VARIABLE, PORT_VARIABLE, Order, Overhead

ENGINE_LABEL = {LABEL_STEP: SERVE}
ADDRESS_PORT = 80
"""Port of the stable address on a cluster."""
GRACE_SECONDS, CLUSTER_GRACE_SECONDS = 30, 300
"""Time a stopping engine has to finish what it is answering, on a laptop and on a cluster."""
SETTLE_SECONDS = 5
"""A cluster's nodes learn within it that an engine takes no new connections."""


def build_selector(service: InferenceService) -> dict[str, str]:
    """Labels that engines of this service, and only they, carry."""
    return {**build_labels(service), **ENGINE_LABEL}


@dataclass(frozen=True)
class Weights:
    """What an engine serves; empty while that is unknown."""

    variant: str = ""
    """Type, or ``baseline``."""
    blob: str = ""
    """Digest of the GGUF file, or of the manifest of a model whose files are served as they are."""


ANNOTATION_VARIANT, ANNOTATION_BLOB, ANNOTATION_SLOTS = f"{GROUP}/variant", f"{GROUP}/digest", f"{GROUP}/slots"
ANNOTATION_ADAPTERS, ANNOTATION_BY_NAME = f"{GROUP}/adapters", f"{GROUP}/adapters-by-name"
"""An engine's pod says what it serves, so that a rollout can be told from its end."""


def served_weights(pods: Iterable[Manifest]) -> Weights | None:
    """What the engines that answer serve; None when none does, or when they differ."""
    ready = [pod["metadata"].get("annotations", {}) for pod in pods if is_ready(pod)]
    found = {Weights(each.get(ANNOTATION_VARIANT, ""), each.get(ANNOTATION_BLOB, "")) for each in ready}
    return found.pop() if len(found) == 1 else None


def address_name(service_name: str) -> str:
    """Name of the Service: a DNS label that begins with a letter, as ``qwen3-0.6b`` and ``7b`` are none."""
    name = service_name.replace(".", "-")
    return (name if name[0].isalpha() else f"s-{name}")[:MAX_CHILD_NAME].rstrip("-")


def address_url(service: InferenceService, address: Manifest | None, placement: Placement) -> str:
    """Where the service answers, without a path; empty while that is not known."""
    if address is None:
        return ""
    if placement.pods is not None:
        meta = service.metadata
        return f"http://{address_name(meta.name)}.{meta.namespace}.svc:{ADDRESS_PORT}"
    for item in address.get("status", {}).get("loadBalancer", {}).get("ingress", []):
        for port in item.get("ports", []):
            return f"http://{item['ip']}:{port['port']}"
    return ""


@dataclass(frozen=True)
class Engine:
    """One engine: what it runs, what it serves, what it needs."""

    runtime: str
    program: Program
    order: Order
    weights: Weights
    size_bytes: int
    """Of what it loads."""
    memory_bytes: int
    """Forecast for weights, KV cache and buffers; 0 where the model's shape is not known."""
    accelerator: AcceleratorStatus


def build_deployment(service: InferenceService, engine: Engine, placement: Placement, replicas: int) -> Manifest:
    """Engines that serve the same; any difference in their template rolls them one after the other."""
    runtime = find_runtime(engine.runtime, placement)
    overhead = runtime.overhead(engine.order)
    variables = [{"name": name, "value": value} for name, value in runtime.build_variables(engine.order).items()]
    container: Manifest = {
        "name": "engine",
        "image": engine.program.image,
        "command": [*runtime.build_command(engine.program, engine.order), *service.spec.extra_args],
        **({"env": variables} if variables else {}),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "resources": _resources(service, engine, overhead, placement),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **runtime.build_probes(),
    }
    extra: Manifest = {}
    grace = GRACE_SECONDS
    if placement.pods is not None:
        container["env"] = [*_cluster_variables(container), *variables]
        container["lifecycle"] = {"preStop": {"exec": {"command": build_drain()}}}
        start_seconds = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
        extra = {"revisionHistoryLimit": 2, "progressDeadlineSeconds": start_seconds + 60}
        grace = CLUSTER_GRACE_SECONDS
    demands = build_demands(service, engine.accelerator, overhead)
    shape = PodShape("serve", "read", "Always", grace, service.spec, demands)
    annotations = {
        ANNOTATION_VARIANT: engine.weights.variant,
        ANNOTATION_BLOB: engine.weights.blob,
        ANNOTATION_SLOTS: str(engine.order.parallel),
        **_tell_adapters(engine, placement),
    }
    template = build_pod_template(shape, container, placement, build_selector(service), annotations)
    if placement.pods is not None:
        template["spec"]["topologySpreadConstraints"] = _spread(service)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": build_metadata(service, service.metadata.name, ENGINE_LABEL),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": build_selector(service)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            **extra,
            "template": template,
        },
    }


def _tell_adapters(engine: Engine, placement: Placement) -> Manifest:
    """Which it has, and whether requests name them, as vLLM has it, or number them."""
    if not engine.order.adapters:
        return {}
    by_name = {ANNOTATION_BY_NAME: "true"} if loads_folders(engine.runtime, placement) else {}
    return {ANNOTATION_ADAPTERS: ",".join(engine.order.adapters), **by_name}


def build_drain(port: int = ENGINE_PORT, settle_seconds: float = SETTLE_SECONDS) -> list[str]:
    """Runs in an engine's container before SIGTERM, at which engines cut their answers: ends when nobody is connected.

    State 01 of a connection is ESTABLISHED (Linux, ``Documentation/networking/proc_net_tcp.rst``). Engines themselves
    close connections that wait for a next request, llama-server and vLLM after 5 seconds.
    """
    connected = f"grep -qs ':{port:04X} [0-9A-F]*:[0-9A-F]* 01 ' /proc/net/tcp /proc/net/tcp6"
    return ["/bin/sh", "-c", f"sleep {settle_seconds:g}; while {connected}; do sleep 0.5; done"]


def _resources(service: InferenceService, engine: Engine, overhead: Overhead, placement: Placement) -> Manifest:
    given, pods = service.spec.resources, placement.pods
    if pods is None:
        resources: Manifest = given.model_dump(exclude_defaults=True)
        if engine.memory_bytes and "memory" not in given.requests:
            resources.setdefault("requests", {})["memory"] = str(engine.memory_bytes)
        return resources
    accelerator, pods = engine.accelerator, with_room(pods, overhead.cpu_limit, overhead.temporary_storage)
    if not accelerator.count:
        return fill_resources(
            given, engine_memory(engine.size_bytes, engine.memory_bytes, overhead.process_bytes), pods
        )
    # The weights only pass through the page cache, on their way to the GPUs.
    resources = fill_resources(given, Memory(overhead.process_bytes, engine.size_bytes), pods)
    return add_devices(resources, accelerator)


def _cluster_variables(container: Manifest) -> list[Manifest]:
    """What Kubernetes puts into words: the port, and the CPUs where no limit says how many."""
    variables: list[Manifest] = [{"name": PORT_VARIABLE, "value": str(ENGINE_PORT)}]
    words = [*container["command"], *(each["value"] for each in container.get("env", ()))]
    if f"$({CPUS_VARIABLE})" in words:
        # Without a limit this is what the node has to give.
        cpus = {"containerName": container["name"], "resource": "limits.cpu", "divisor": "1"}
        variables.append({"name": CPUS_VARIABLE, "valueFrom": {"resourceFieldRef": cpus}})
    return variables


def _spread(service: InferenceService) -> list[Manifest]:
    """Engines on different nodes where that is possible. For one, too: the template must not change with the number."""
    selector = {"matchLabels": build_selector(service)}
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
        }
    ]


def build_service(service: InferenceService, placement: Placement) -> Manifest:
    """The stable address; ``spec.port`` asks the local backend for that very port."""
    port: Manifest = {"name": "http", "port": ADDRESS_PORT, "targetPort": "http"}
    if service.spec.port and placement.pods is None:
        port["nodePort"] = service.spec.port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(service, address_name(service.metadata.name), ENGINE_LABEL),
        "spec": {"selector": build_selector(service), "ports": [port]},
    }


def build_budget(service: InferenceService) -> Manifest:
    """Lets a drain take one engine at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": build_metadata(service, service.metadata.name, ENGINE_LABEL),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": build_selector(service)}},
    }
