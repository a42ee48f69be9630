"""An ordinary operator in plain kopf handlers, as kopf's documentation teaches: what ours is measured against.

A create handler makes Deployment and Service, an update handler patches the Deployment, and an event handler on
Deployments tells the owner how many engines are ready. kopf keeps what it needs to know in annotations and patches the
status. Nothing in it is slow on purpose, and what costs a call without need is left out: no finalizer, no write while
no engine is ready. Its pods are those that ours makes, so that Kubernetes has the same work with either.

    KUBECONFIG=file python -m kopf run --all-namespaces --standalone -m tests.bench.operator_baseline
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kopf
import yaml
from kubernetes.aio import client, config

GROUP, VERSION, PLURAL = "slm.dev", "v1alpha1", "inferenceservices"
OWNER_LABEL = "slm.dev/name"
PORT = 8080
MERGE = "application/merge-patch+json"
CONFLICT = 409
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cluster" / "output" / "inferenceservice.yaml"
POD: dict[str, Any] = next(
    each["spec"]["template"]["spec"]
    for each in yaml.safe_load_all(GOLDEN.read_text(encoding="utf-8"))
    if each["kind"] == "Deployment"
)
"""An engine's pod as ours makes it."""


@kopf.on.startup()
async def connect(memo: Any, **_: Any) -> None:
    """One client for all handlers."""
    await config.load_kube_config()  # type: ignore[no-untyped-call]
    memo.api = client.ApiClient()


@kopf.on.cleanup()
async def disconnect(memo: Any, **_: Any) -> None:
    """Close it."""
    await memo.api.close()


@kopf.on.create(GROUP, VERSION, PLURAL)
async def create(spec: kopf.Spec, name: str, namespace: Any, patch: kopf.Patch, memo: Any, **_: Any) -> None:
    """Make what serves it; kopf retries until the QuantJob offers the variant."""
    variant = await find_variant(memo.api, namespace, spec)
    deployment, service = build_deployment(name, spec, variant), build_service(name)
    kopf.adopt([deployment, service])
    apps, core = client.AppsV1Api(memo.api), client.CoreV1Api(memo.api)
    await once(apps.create_namespaced_deployment(namespace, deployment))
    await once(core.create_namespaced_service(namespace, service))
    patch.status["runtime"] = "llama.cpp"
    patch.status["variant"] = variant["type"]
    patch.status["digest"] = variant["blob"]
    patch.status["url"] = f"http://{name}.{namespace}.svc"


@kopf.on.update(GROUP, VERSION, PLURAL, field="spec")
async def update(spec: kopf.Spec, name: str, namespace: Any, memo: Any, **_: Any) -> None:
    """Roll the engines."""
    variant = await find_variant(memo.api, namespace, spec)
    deployment = build_deployment(name, spec, variant)
    apps = client.AppsV1Api(memo.api)
    await apps.patch_namespaced_deployment(name, namespace, deployment, _content_type=MERGE)


@kopf.on.event("apps", "v1", "deployments", labels={OWNER_LABEL: kopf.PRESENT})
async def follow(status: kopf.Status, name: str, namespace: Any, memo: Any, **_: Any) -> None:
    """Tell the owner how many engines are ready, when that changes."""
    ready = status.get("readyReplicas", 0)
    if memo.get("ready", 0) == ready:
        return
    memo.ready = ready
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "Ready" if ready else "Starting",
        "message": f"{ready} engines answer",
        "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    body = {"status": {"readyReplicas": ready, "conditions": [condition]}}
    custom = client.CustomObjectsApi(memo.api)
    await custom.patch_namespaced_custom_object_status(
        GROUP, VERSION, namespace, PLURAL, name, body, _content_type=MERGE
    )


async def find_variant(api: client.ApiClient, namespace: Any, spec: kopf.Spec) -> dict[str, Any]:
    """The variant to serve; raises TemporaryError until there is one."""
    reference = spec["quantJobRef"]
    try:
        job: Any = await client.CustomObjectsApi(api).get_namespaced_custom_object(
            GROUP, VERSION, namespace, "quantjobs", reference["name"]
        )
    except client.ApiException as error:
        raise kopf.TemporaryError(f"QuantJob {reference['name']}: {error.reason}", delay=5) from error
    for variant in job.get("status", {}).get("variants", []):
        if variant["type"] == reference["variant"] and variant.get("gate") == "Passed":
            found: dict[str, Any] = variant
            return found
    raise kopf.TemporaryError(f"QuantJob {reference['name']} offers no {reference['variant']}", delay=5)


async def once(creation: Any) -> None:
    """Create what a retried handler may have created already."""
    try:
        await creation
    except client.ApiException as error:
        if error.status != CONFLICT:
            raise


def build_deployment(name: str, spec: kopf.Spec, variant: dict[str, Any]) -> Any:
    """Engines."""
    labels = {OWNER_LABEL: name}
    blob = variant["blob"].removeprefix("sha256:")
    command = ["llama-server", "--model", f"/store/blobs/sha256/{blob}", "--port", str(PORT)]
    spread = {**POD["topologySpreadConstraints"][0], "labelSelector": {"matchLabels": labels}}
    pod = {
        **POD,
        "containers": [{**POD["containers"][0], "command": command}],
        "topologySpreadConstraints": [spread],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": spec.get("replicas", 1),
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def build_service(name: str) -> Any:
    """The address."""
    port = {"name": "http", "port": 80, "targetPort": "http"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {OWNER_LABEL: name}},
        "spec": {"selector": {OWNER_LABEL: name}, "ports": [port]},
    }
