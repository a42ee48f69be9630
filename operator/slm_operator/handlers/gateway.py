"""``slm-gateway``: the front door of a cluster's InferenceServices."""

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import Sequence

from slm_operator.adapters.kube import KubeCluster
from slm_operator.adapters.kube_audit import Audit
from slm_operator.adapters.kube_client import Always, KubeClient, open_api
from slm_operator.adapters.kube_kinds import GATEWAY_KINDS
from slm_operator.adapters.object_cache import ObjectCache
from slm_operator.errors import SlmError
from slm_operator.gateway.access import Access, KeyAccess
from slm_operator.gateway.app import Gateway
from slm_operator.gateway.audit_file import AuditOutput
from slm_operator.gateway.directory import Directory, MemoryDirectory
from slm_operator.gateway.following import Follower
from slm_operator.gateway.listening import Listener, any_addresses, listen_for_metrics
from slm_operator.gateway.metrics import GatewayMetrics
from slm_operator.gateway.reporting import Reporter
from slm_operator.gateway.serving import Parts, Stop, run, serve_until_told
from slm_operator.handlers.gateway_keys import KeyReader
from slm_operator.handlers.program import EXIT_MALFORMED, begin
from slm_operator.handlers.reviewing import Reviewer
from slm_operator.handlers.telling import Teller
from slm_operator.handlers.watching import watch
from slm_operator.settings import GatewaySettings

EPILOG = """All settings are environment variables that start with SLM_: docs/reference/settings.md lists them.

examples:
  slm-gateway                                              in a Pod, with its service account
  KUBECONFIG=~/.kube/config SLM_GATEWAY_PORT=8081 slm-gateway   from a laptop that reaches the pods

exit codes: 0 told to stop, 1 no API server, a port that is taken or a fault, 2 a malformed setting"""
RELOAD_SECONDS = 60.0
"""Between looks at the certificate's files: whoever renews them need not restart the gateway."""

log = logging.getLogger(__name__)


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT; raises SlmError, and OSError for a port or a certificate."""
    tls = _load_tls(settings)
    async with open_api() as api:
        client = KubeClient(api, Always(), _count_nothing)
        cache, namespaces = ObjectCache(), settings.watch_namespaces
        audit = Audit(client, cache, namespaces, {}, kinds=GATEWAY_KINDS)
        reviewer = Reviewer(client, settings.gateway_audience, settings.gateway_namespace)
        access = KeyAccess(time.time, reviewer if settings.gateway_token_review else None)
        keys = KeyReader(client, settings.gateway_namespace, access)
        await keys.read()
        directory, stop = MemoryDirectory(), Stop()
        follower = Follower(KubeCluster(client, cache), directory, scaled_by_others=True)
        async with asyncio.TaskGroup() as group:
            parts = Parts(group)
            parts.keep(lambda: watch(cache, namespaces, {}, audit.soon, stop.take_signals, GATEWAY_KINDS))
            parts.keep(audit.run)
            parts.keep(keys.run)
            await audit.synced.wait()
            await follower.fill()
            parts.keep(follower.run)
            if tls is not None:
                parts.keep(lambda: _reload_tls(settings, tls))
            await _answer(settings, directory, access, tls, stop, parts, audit)
            parts.end()


async def _answer(
    settings: GatewaySettings, directory: Directory, access: Access, tls: ssl.SSLContext | None, stop: Stop,
    parts: Parts, audit: Audit,
) -> None:  # fmt: skip
    lines, reporter = AuditOutput(time.time), Reporter()
    audited = settings.gateway_audit == "stdout"
    gateway = Gateway(directory, access, demand=reporter.wanted, check=lines.check)
    metrics = GatewayMetrics(gateway.admissions.loads, lambda: parts.failures)
    gateway.observe_with(metrics.observe, *([lines.observe] if audited else []))
    if settings.demand_url:
        name = settings.pod_name
        teller = Teller(settings.demand_url, settings.demand_token, name, reporter, gateway.admissions)
        parts.keep(teller.run)
    listener, addresses = Listener(gateway), any_addresses()
    await listener.listen(addresses, settings.gateway_port, tls)
    measured = await listen_for_metrics(metrics.render, addresses, settings.gateway_metrics_port, audit.stuck)
    log.info("the gateway listens", extra={"port": listener.port, "tls": tls is not None})
    await serve_until_told(listener, settings.gateway_drain_seconds, stop)
    measured.close()


def _load_tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    if settings.gateway_tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.gateway_tls_cert, settings.gateway_tls_key)
    return context


async def _reload_tls(settings: GatewaySettings, context: ssl.SSLContext) -> None:
    """New connections get the certificate that the files hold now."""
    assert settings.gateway_tls_cert is not None  # noqa: S101 (for the type checker)
    while True:
        await asyncio.sleep(RELOAD_SECONDS)
        try:
            context.load_cert_chain(settings.gateway_tls_cert, settings.gateway_tls_key)
        except OSError as error:
            log.warning("the certificate could not be read again", extra={"error": str(error)})


def _count_nothing(_verb: str, _path: str, _status: int) -> None:
    """The operator's metrics count requests to the API server; a gateway makes few."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    description = "One address, with OpenAI's and Ollama's API, in front of a cluster's InferenceServices."
    settings = begin("slm-gateway", description, EPILOG, GatewaySettings, argv)
    if settings is None:
        return EXIT_MALFORMED
    code = 0
    try:
        run(serve(settings))
    except* (SlmError, OSError) as group:
        for each in group.exceptions:
            log.error(str(each))  # noqa: TRY400 - a sentence for the user, not a traceback
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
