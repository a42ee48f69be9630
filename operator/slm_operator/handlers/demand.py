"""Gateways' reports of demand, as each replica of the operator hears them: ``POST /demand``, a line for each report.

Every replica hears every gateway, so that whichever takes over knows what is asked for; only the one that leads acts.
A request lasts as long as its gateway: its end is the gateway's.
"""

import asyncio
import logging
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from slm_operator.adapters.kube_client import KubeClient
from slm_operator.adapters.kube_review import SERVICE_ACCOUNT, review_token
from slm_operator.errors import SlmError
from slm_operator.gateway.reporting import LONGEST_LINE, parse_report
from slm_operator.reconcile.autoscaler import Autoscaler, Hearing

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
WAITING = 100
"""Most requests whose tokens wait to be asked about; more get 503, since each keeps the begin of its body."""

log = logging.getLogger(__name__)


class DemandEndpoint:
    """Hears gateways whose service account is this one."""

    def __init__(self, client: KubeClient, account: str, autoscaler: Autoscaler) -> None:
        namespace, _, name = account.partition("/")
        self._user = f"{SERVICE_ACCOUNT}{namespace}:{name}"
        self._client = client
        self._autoscaler = autoscaler
        self._asking = asyncio.Semaphore(REVIEWS)
        self._waiting = 0

    async def hear(self, request: web.Request) -> web.Response:
        """One gateway, from its first report to its end."""
        if refusal := await self._refusal(request):
            return refusal
        gateway = request.headers.get(NAME_HEADER, "")
        if not gateway:
            return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"{NAME_HEADER} must name the gateway.\n")
        hearing, patience = self._autoscaler.hear(gateway), LOST_SECONDS
        log.info("a gateway reports", extra={"gateway": gateway})
        try:
            await self._listen(request, hearing)
            patience = 0.0
        except (OSError, TimeoutError, ValueError, web.RequestPayloadError, HttpProcessingError) as error:
            log.warning("a gateway's reports broke off", extra={"gateway": gateway, "error": repr(error)})
            return web.Response(status=HTTPStatus.BAD_REQUEST, text="That is no report.\n")
        finally:  # Whatever it was, also what nobody thought of: no gateway is believed for ever.
            asyncio.get_running_loop().call_later(patience, hearing.end)
        log.info("a gateway has ended", extra={"gateway": gateway})
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _refusal(self, request: web.Request) -> web.Response | None:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme != "Bearer" or not token:
            return _needs_token()
        if self._waiting >= WAITING:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="Too many ask at the same time.\n")
        self._waiting += 1
        try:
            async with self._asking:
                user = await review_token(self._client, token, AUDIENCE)
        except SlmError as error:
            log.warning("a gateway's token could not be reviewed", extra={"error": str(error)})
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="The token cannot be reviewed now.\n")
        finally:
            self._waiting -= 1
        if user is None:
            return _needs_token()
        if user.name != self._user:
            return web.Response(status=HTTPStatus.FORBIDDEN, text=f"{user.name} is no gateway.\n")
        return None

    async def _listen(self, request: web.Request, hearing: Hearing) -> None:
        """Until the gateway ends its request, or has begun another; raises whatever else ends it."""
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                line = await request.content.readline(max_line_length=LONGEST_LINE)
            if not line or not hearing.report(parse_report(line)):
                return


def _needs_token() -> web.Response:
    return web.Response(status=HTTPStatus.UNAUTHORIZED, text=f"A token for {AUDIENCE} is needed.\n")
