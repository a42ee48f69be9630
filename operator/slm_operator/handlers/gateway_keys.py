"""The gateway's API keys, as Secrets in its namespace hold them."""

import asyncio
import logging

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.errors import SlmError
from slm_operator.gateway.access import KeyAccess
from slm_operator.gateway.keys import LABEL, ApiKey, InvalidKey, read_secret

PERIOD_SECONDS = 5.0
"""Between looks: so late at most a key works that was made, and one that was taken away does not."""
log = logging.getLogger(__name__)


class KeyReader:
    """Reads them now and then: one request that answers with a few KB."""

    def __init__(self, client: KubeClient, namespace: str, access: KeyAccess) -> None:
        self._client = client
        self._namespace = namespace
        self._access = access
        self._told: set[str] = set()

    async def read(self) -> None:
        """Read them once; raises SlmError where the API server does not answer, or not this."""
        path = f"/api/v1/namespaces/{self._namespace}/secrets"
        answer = await self._client.read(path, {"labelSelector": f"{LABEL}=true"})
        keys: list[ApiKey] = []
        problems: set[str] = set()
        for secret in (answer or {}).get("items") or ():
            try:
                keys.append(read_secret(secret, self._namespace))
            except InvalidKey as problem:
                problems.add(str(problem))
        for sentence in sorted(problems - self._told):
            log.warning("an API key does not work: %s", sentence)
        self._told = problems
        self._access.replace(keys)

    async def run(self) -> None:
        """Read them for ever; while they cannot be read those that are known work."""
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                await self.read()
            except SlmError as error:
                log.warning("API keys could not be read", extra={"error": str(error)})
