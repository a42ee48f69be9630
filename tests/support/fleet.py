"""Many objects on a real API server, and what they come to: the same whatever happened to the operator meanwhile."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.kube_kinds import KINDS, OURS
from slm_operator.errors import ClusterUnavailable
from slm_operator.ports import Manifest

MODELS = 2
TYPES = ("Q8_0", "Q4_0")
CHILDREN = ("Job", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy")
REPORT_NAME = re.compile(r"(-report)-[0-9a-f]{8}\b")
FLEETING = {"conditions", "progress", "observedGeneration", "stepSeconds", "replicas", "readyReplicas", "storeUid"}
"""Parts of a status that tell how it went, and not what came out."""


@dataclass(frozen=True)
class Fleet:
    """QuantJobs that share a few models, and a service of each fourth."""

    namespace: str
    quant_jobs: int = 20

    def manifests(self) -> list[Manifest]:
        """All of them."""
        models = [
            self._object("SLMModel", f"m{number}", {"source": {"huggingFace": {"repo": f"a/m{number}"}}})
            for number in range(MODELS)
        ]
        jobs = [
            self._object(
                "QuantJob",
                f"q{number}",
                {"modelRef": {"name": f"m{number % MODELS}"}, "variants": list(TYPES)},
            )
            for number in range(self.quant_jobs)
        ]
        services = [
            self._object("InferenceService", f"s{number}", {"quantJobRef": {"name": f"q{number}"}})
            for number in range(0, self.quant_jobs, 4)
        ]
        return [*services, *jobs, *models]  # What is referred to comes last.

    def _object(self, kind: str, name: str, spec: Manifest) -> Manifest:
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": meta, "spec": spec}

    async def apply(self, client: KubeClient) -> None:
        """Create everything, as a user would."""
        for manifest in self.manifests():
            path = KINDS[manifest["kind"]].path(self.namespace)
            await client.write("POST", path, manifest, query={"fieldManager": "kubectl"})

    async def objects(self, client: KubeClient, kind: str) -> list[Manifest]:
        """Objects of a kind that are ours."""
        selector = {"labelSelector": OURS} if kind in CHILDREN or kind == "Pod" else {}
        found = await client.read(KINDS[kind].path(self.namespace), selector)
        return found["items"] or []

    async def wait(self, client: KubeClient, seconds: float) -> None:
        """Until all are Ready."""
        waiting: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                while waiting := await self._waiting(client):
                    await asyncio.sleep(0.3)
        except TimeoutError:
            raise AssertionError(f"not Ready after {seconds} s: {waiting[:10]}") from None

    async def _waiting(self, client: KubeClient) -> list[str]:
        """What is waited for, be it the API server itself."""
        try:
            return await self.not_ready(client)
        except ClusterUnavailable as error:
            return [str(error)]

    async def not_ready(self, client: KubeClient) -> list[str]:
        """What is not Ready yet, with its reason and message."""
        found = []
        for kind in ("SLMModel", "QuantJob", "InferenceService"):
            for each in await self.objects(client, kind):
                conditions = {item["type"]: item for item in each.get("status", {}).get("conditions", [])}
                ready = conditions.get("Ready", {})
                current = each.get("status", {}).get("observedGeneration") == each["metadata"]["generation"]
                if ready.get("status") != "True" or not current:
                    said = f"{ready.get('reason')}: {ready.get('message')}"
                    found.append(f"{kind} {each['metadata']['name']} {said}")
        return found

    async def outcome(self, client: KubeClient) -> dict[str, Any]:
        """What came out, without times and names of Pods: statuses and children, comparable between namespaces."""
        result: dict[str, Any] = {}
        for kind in ("SLMModel", "QuantJob", "InferenceService"):
            for each in await self.objects(client, kind):
                status = {name: value for name, value in each["status"].items() if name not in FLEETING}
                reasons = {item["type"]: (item["status"], item["reason"]) for item in each["status"]["conditions"]}
                told = {"status": status, "conditions": reasons}
                result[f"{kind}/{each['metadata']['name']}"] = self._anywhere(told)
        for kind in CHILDREN:
            names = sorted(each["metadata"]["name"] for each in await self.objects(client, kind))
            result[kind] = self._anywhere(names)
        return result

    def _anywhere(self, value: Any) -> Any:
        """The same value whatever the namespace is called: a report's title has it, and so its Job's name a digest."""
        text = json.dumps(value, sort_keys=True).replace(self.namespace, "NAMESPACE")
        return json.loads(REPORT_NAME.sub(r"\1-DIGEST", text))


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two outcomes differ: found and wanted."""
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return {key: (found.get(key), wanted.get(key)) for key in keys}
