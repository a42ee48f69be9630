"""Kubernetes' own word on who may call the gateway, remembered for a while."""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.kube_review import SERVICE_ACCOUNT, User, review_access, review_token
from slm_operator.errors import SlmError
from slm_operator.gateway.access import Caller
from slm_operator.gateway.directory import Service
from slm_operator.gateway.refusal import Refusal

REMEMBERED_SECONDS, REFUSED_SECONDS = 60.0, 5.0
"""How long a yes and a no are believed: so late at most a token that was revoked is refused, and a right that was given
helps."""
REMEMBERED = 10_000
"""Answers kept; whoever asks with ever new tokens pushes out others' answers, not the gateway's memory."""
REVIEWS = 32
"""Questions to the API server at a time: whoever comes with ever new tokens waits here, not there."""
log = logging.getLogger(__name__)


@dataclass
class _Answer:
    future: asyncio.Future[Any]
    until: float = math.inf
    """When it must be asked for anew; infinite while it is waited for."""


class Reviewer:
    """An ``access.TokenReviewer`` over an API server."""

    def __init__(
        self, client: KubeClient, audience: str, namespace: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._audience = audience
        self._namespace = namespace
        self._clock = clock
        self._known: OrderedDict[Hashable, _Answer] = OrderedDict()
        self._users: dict[str, User] = {}
        self._asking = asyncio.Semaphore(REVIEWS)

    async def identify(self, token: str) -> Caller | None:
        """See ``access.TokenReviewer``. Tokens are kept as hashes."""
        user: User | None = await self._remember(
            sha256(token.encode()).digest(), lambda: review_token(self._client, token, self._audience)
        )
        if user is None:
            return None
        self._users[user.name] = user
        return Caller(user.name, _namespace_of(user.name) or self._namespace)

    async def may_use(self, caller: Caller, service: Service) -> bool:
        """See ``access.TokenReviewer``."""
        user = self._users.get(caller.name)
        if user is None:
            return False
        allowed: bool = await self._remember(
            (user.name, service.key), lambda: review_access(self._client, user, service.namespace, service.name)
        )
        return allowed

    async def _remember(self, key: Hashable, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer from before, or a new one; who asks the same meanwhile waits for the same. Raises Refusal."""
        known = self._known.get(key)
        if known is None or known.until <= self._clock():
            known = self._known[key] = _Answer(asyncio.ensure_future(self._ask(ask)))
            # Not when somebody has waited for it: whoever asked may have left.
            known.future.add_done_callback(partial(self._date, key, known))
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        try:
            return await asyncio.shield(known.future)
        except SlmError as error:
            log.warning("the API server was asked who calls, in vain", extra={"error": str(error)})
            message = "The gateway cannot ask the cluster who you are: try again in a moment."
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "review_unavailable", message, 5) from error

    async def _ask(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        async with self._asking:
            return await ask()

    def _date(self, key: Hashable, known: _Answer, future: asyncio.Future[Any]) -> None:
        """The answer has come: it is believed from now on, unless it was none."""
        if future.cancelled() or future.exception() is not None:
            if self._known.get(key) is known:
                del self._known[key]
        else:
            known.until = self._clock() + (REMEMBERED_SECONDS if future.result() else REFUSED_SECONDS)


def _namespace_of(user: str) -> str:
    """Namespace of a service account."""
    return user.removeprefix(SERVICE_ACCOUNT).partition(":")[0] if user.startswith(SERVICE_ACCOUNT) else ""
