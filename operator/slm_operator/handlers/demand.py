"""Gateways' reports of demand, as each replica of the operator hears them: ``POST /demand``, a line for each report.

Every replica hears every gateway, so that whichever takes over knows what is asked for; only the one that leads acts.
A request lasts as long as its gateway: its end is the gateway's.
"""

import asyncio
import logging
from http import HTTPStatus

from aiohttp import hdrs, web

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.kube_review import review_token
from slm_operator.errors import SlmError
from slm_operator.gateway.reporting import parse_report
from slm_operator.reconcile.autoscaler import Autoscaler

PATH = "/demand"
AUDIENCE = "slm.dev/demand"
"""What a gateway's token must have been made for: it is good for nothing else."""
NAME_HEADER = "X-Slm-Gateway"
SILENCE_SECONDS = 15.0
"""A gateway reports each second; a connection that brings nothing for so long is dead."""
LOST_SECONDS = 60.0
"""After a connection that broke, so long a gateway's requests are taken to be there still: it may come again."""
REVIEWS = 4
"""Questions about tokens at a time: whoever knocks without one must not keep the API server busy."""

log = logging.getLogger(__name__)


class DemandEndpoint:
    """Hears gateways whose service account is this one."""

    def __init__(self, client: KubeClient, account: str, autoscaler: Autoscaler) -> None:
        namespace, _, name = account.partition("/")
        self._user = f"system:serviceaccount:{namespace}:{name}"
        self._client = client
        self._autoscaler = autoscaler
        self._asking = asyncio.Semaphore(REVIEWS)
        self._connected: dict[str, object] = {}
        # Gateway to its newest connection.

    async def hear(self, request: web.Request) -> web.Response:
        """One gateway, from its first report to its end."""
        if refusal := await self._refusal(request):
            return refusal
        gateway, connection = request.headers.get(NAME_HEADER, ""), object()
        if not gateway:
            return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"{NAME_HEADER} must name the gateway.\n")
        self._connected[gateway] = connection
        log.info("a gateway reports", extra={"gateway": gateway})
        try:
            await self._listen(request, gateway)
        except (OSError, TimeoutError, ValueError, TypeError, AttributeError) as error:
            log.warning("a gateway's reports broke off", extra={"gateway": gateway, "error": repr(error)})
            asyncio.get_running_loop().call_later(LOST_SECONDS, self._lose, gateway, connection)
            return web.Response(status=HTTPStatus.BAD_REQUEST, text="That is no report.\n")
        log.info("a gateway has ended", extra={"gateway": gateway})
        self._lose(gateway, connection)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _refusal(self, request: web.Request) -> web.Response | None:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        try:
            async with self._asking:
                user = await review_token(self._client, token, AUDIENCE) if scheme == "Bearer" and token else None
        except SlmError as error:
            log.warning("a gateway's token could not be reviewed", extra={"error": str(error)})
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="The token cannot be reviewed now.\n")
        if user is None:
            return web.Response(status=HTTPStatus.UNAUTHORIZED, text=f"A token for {AUDIENCE} is needed.\n")
        if user.name != self._user:
            return web.Response(status=HTTPStatus.FORBIDDEN, text=f"{user.name} is no gateway.\n")
        return None

    async def _listen(self, request: web.Request, gateway: str) -> None:
        """Until the gateway ends its request; raises whatever else ends it."""
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                line = await request.content.readline()
            if not line:
                return
            self._autoscaler.report(gateway, parse_report(line))

    def _lose(self, gateway: str, connection: object) -> None:
        """The gateway has ended, unless it came again."""
        if self._connected.get(gateway) is connection:
            del self._connected[gateway]
            self._autoscaler.lose(gateway)
