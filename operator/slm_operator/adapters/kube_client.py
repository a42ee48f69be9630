"""Requests to an API server: paths in, JSON out, its refusals as our exceptions."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from slm_operator.adapters.server_clock import ServerClock
from slm_operator.errors import (
    ClusterUnavailable,
    Conflict,
    NamespaceEnding,
    NameTaken,
    NotLeading,
    Refused,
    SlmError,
)

FIELD_MANAGER = "slm-operator"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
REQUEST_SECONDS = 30.0
"""Longest wait for an answer: an API server gives up on most requests after as many seconds itself."""
CONNECTIONS = 32
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

BAD_REQUEST, FORBIDDEN, NOT_FOUND, CONFLICT, INVALID = 400, 403, 404, 409, 422
REFUSALS = {BAD_REQUEST, FORBIDDEN, INVALID}
"""Answers that the same request will get again, until somebody changes the object, the quota or the RBAC."""


class Fence(Protocol):
    """Says whether this process may still write."""

    def remaining_seconds(self) -> float:
        """How long it may; 0 or less when it may not."""
        ...


class Always:
    """The fence of a process that has no rival."""

    def remaining_seconds(self) -> float:
        """More than any request takes."""
        return REQUEST_SECONDS


class KubeClient:
    """JSON requests, each counted by verb and resource; writes only while the fence lets them through."""

    def __init__(
        self, api: ApiClient, fence: Fence, count: Callable[[str, str, int], None], clock: ServerClock | None = None
    ) -> None:
        self._api = api
        self._fence = fence
        self._count = count
        self._clock = clock or ServerClock()

    async def read(self, path: str, query: Mapping[str, str] | None = None, *, accept: str = "application/json") -> Any:
        """GET: a JSON answer, or text where it is none; None when there is no such object."""
        return await self._send("GET", path, query, None, "", accept, REQUEST_SECONDS)

    async def write(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        content: str = "application/json",
        query: Mapping[str, str] = {},
    ) -> Any:
        """POST, PATCH, PUT or DELETE, within the time for which the fence still holds; None for a 404.

        Raises NotLeading, Conflict (409), Refused (400, 403, 422), NamespaceEnding, ClusterUnavailable.
        """
        allowed = min(REQUEST_SECONDS, self._fence.remaining_seconds())
        if allowed <= 0:
            raise NotLeading("This replica does not hold the Lease, so it writes nothing.")
        return await self._send(method, path, {"fieldManager": FIELD_MANAGER, **query}, body, content, "", allowed)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content: str,
        accept: str,
        seconds: float,
    ) -> Any:
        headers = {"Accept": accept or "application/json", **({"Content-Type": content} if content else {})}
        asked = self._clock.own()
        try:
            async with asyncio.timeout(seconds):
                request = await self._api.param_serialize(
                    method, path, query_params=list((query or {}).items()), header_params=headers,
                    auth_settings=["BearerToken"],
                )  # fmt: skip
                answer = await self._api.call_api(request[0], request[1], request[2], body, _request_timeout=seconds)
                text = await answer.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._count(method, path, 0)
            detail = str(error) or type(error).__name__
            raise ClusterUnavailable(f"The API server did not answer {method} {path}: {detail}.") from error
        self._count(method, path, answer.status)
        self._clock.hear(answer.headers.get("Date", ""), asked)
        if answer.status == NOT_FOUND:
            return None
        if answer.status >= BAD_REQUEST:
            raise _problem(f"{method} {path}", answer.status, answer.headers, text)
        return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text.decode(errors="replace")


def _problem(request: str, status: int, headers: Mapping[str, str], text: bytes) -> SlmError:
    """Our exception for an answer of 400 and above, with the API server's own sentence."""
    try:
        told = json.loads(text)
        message = str(told.get("message", "")) or str(told)
    except (ValueError, AttributeError):
        told, message = {}, text.decode(errors="replace")[:500]
    causes = {cause.get("reason") for cause in (told.get("details") or {}).get("causes") or []}
    if status == FORBIDDEN and "NamespaceTerminating" in causes:
        return NamespaceEnding(message)
    if "FieldManagerConflict" in causes:
        return NameTaken(f"It exists already and belongs to somebody else: {message}")
    if status == CONFLICT:
        return Conflict(message)
    if status in REFUSALS:
        return Refused(message)
    after = headers.get("Retry-After", "")
    wait = float(after) if after.isdigit() else None
    return ClusterUnavailable(f"The API server answered {status} to {request}: {message}", retry_after_seconds=wait)


@asynccontextmanager
async def open_api() -> AsyncIterator[ApiClient]:
    """A client with the Pod's service account, else with $KUBECONFIG; raises ClusterUnavailable without either."""
    chosen = Configuration()
    chosen.connection_pool_maxsize = CONNECTIONS
    # Without a proxy there is nothing to learn from the environment but .netrc: aiohttp would read that for each
    # request, in a thread, and send what it finds there to the API server.
    chosen.client_session_kwargs = {"trust_env": bool(getproxies())}
    chosen.disable_strict_ssl_verification = True  # As Kubernetes' own clients: see handlers.watching.Connection.
    kubeconfig = os.environ.get("KUBECONFIG") or None
    try:
        if kubeconfig is None and SERVICE_ACCOUNT.exists():  # noqa: ASYNC240 - once, at start
            config.load_incluster_config(chosen)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(kubeconfig, client_configuration=chosen)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        message = f"There is no way to an API server: {error}. Run in a Pod with a service account, or set KUBECONFIG."
        raise ClusterUnavailable(message) from error
    async with ApiClient(chosen) as api:
        yield api
