"""The operator's HTTP port: probes that tell whether work flows, metrics, and what gateways report."""

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from slm_operator.adapters.metrics import Metrics
from slm_operator.handlers.demand import PATH as DEMAND_PATH
from slm_operator.handlers.demand import DemandEndpoint

Check = Callable[[], str]
"""Says what is wrong, in a sentence; an empty string when nothing is."""


def build_app(
    alive: Iterable[Check], ready: Iterable[Check], metrics: Metrics, demand: DemandEndpoint | None = None
) -> web.Application:
    """``/healthz`` answers 503 with a sentence when work is stuck, ``/readyz`` until the caches are filled.

    That a socket answers proves that the event loop turns, and no more; so every check looks at the work itself.
    """
    app = web.Application()
    if demand is not None:
        app.router.add_post(DEMAND_PATH, demand.hear)
    app.router.add_get("/healthz", _answer(tuple(alive)))
    app.router.add_get("/readyz", _answer(tuple(ready)))

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app.router.add_get("/metrics", show_metrics)
    return app


def _answer(checks: tuple[Check, ...]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        problems = [problem for check in checks if (problem := check())]
        return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)

    return answer
