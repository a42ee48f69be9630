"""The gateway of the local backend: ``python -m slm_operator.local.gateway``.

The daemon starts it and keeps it running, but it is a process of its own, so that answers under way outlive a daemon
that is killed. SIGTERM and SIGINT end it once they are complete.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable

from pydantic import ValidationError

from slm_operator.adapters.pod_status import LOCAL_ADDRESS
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.errors import SlmError
from slm_operator.gateway.access import OpenAccess
from slm_operator.gateway.app import Gateway
from slm_operator.gateway.audit_file import AuditDamaged, AuditFile
from slm_operator.gateway.directory import MemoryDirectory
from slm_operator.gateway.following import Follower
from slm_operator.gateway.listening import Listener
from slm_operator.gateway.reporting import Reporter
from slm_operator.gateway.serving import Parts, Stop, run, serve_until_told
from slm_operator.local import locks
from slm_operator.local.daemon import configure_logging
from slm_operator.local.demand import report_forever
from slm_operator.local.lifecycle import EXIT_MALFORMED, EXIT_RUNNING, PROBE_PATIENCE_SECONDS, running_pid
from slm_operator.local.paths import LocalPaths
from slm_operator.settings import Settings


class PortTaken(Exception):
    """The gateway's port cannot be bound; the message says what to do."""


log = logging.getLogger(__name__)


async def serve(
    paths: LocalPaths, settings: Settings, announce: Callable[[int], None], release: Callable[[], None]
) -> None:
    """Serve until told to end; ``announce`` is called with the port, ``release`` when another gateway may begin."""
    with contextlib.closing(SqliteCluster(paths.database)) as cluster, contextlib.ExitStack() as files:
        audit = None
        if settings.gateway_audit is not None:
            audit = AuditFile(settings.gateway_audit, time.time)
            files.callback(audit.close)
        directory = MemoryDirectory()
        reporter = Reporter()
        access, check = OpenAccess(settings.namespace), audit.check if audit else _nothing
        gateway = Gateway(directory, access, demand=reporter.wanted, check=check)
        if audit is not None:
            gateway.observe_with(audit.observe)
            release = _nothing  # A chain of lines has one writer, so the next gateway waits for the end of this one.
        follower = Follower(cluster, directory, scaled_by_others=False)
        await follower.fill()
        listener = Listener(gateway)
        await _listen(listener, settings.gateway_port)
        announce(listener.port)
        log.info("the gateway listens on port %d", listener.port)
        async with asyncio.TaskGroup() as group:
            parts = Parts(group)
            parts.keep(follower.run)
            parts.keep(lambda: report_forever(paths, reporter, gateway.admissions))
            await serve_until_told(listener, gateway.limits.drain_seconds, Stop(), release)
            parts.end()


async def _listen(listener: Listener, port: int) -> None:
    try:
        await listener.listen(LOCAL_ADDRESS, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        message = f"port {port} on {LOCAL_ADDRESS} cannot be used ({reason}); SLM_GATEWAY_PORT chooses another, 0 any"
        raise PortTaken(message) from error


def _nothing() -> None:
    """Without an audit nothing keeps requests from being answered, and with one nothing releases the lock early."""


def main() -> int:
    """Run until told to stop; the exit code says why it could not start."""
    configure_logging()
    try:
        settings = Settings()
        paths = LocalPaths.of(settings)
        with contextlib.ExitStack() as lock:
            write = lock.enter_context(locks.hold(paths.gateway_lock, PROBE_PATIENCE_SECONDS))
            write(os.getpid())
            if running_pid(paths) is None:
                return EXIT_RUNNING  # `slm down` may have looked for a gateway before this one held the lock.
            run(serve(paths, settings, lambda port: write(os.getpid(), port), lock.close))
    except locks.Held:
        return EXIT_RUNNING
    except (ValidationError, SlmError, AuditDamaged, PortTaken, OSError) as error:
        sys.stderr.write(f"The gateway cannot start: {error}\n")
        return EXIT_MALFORMED
    return 0


if __name__ == "__main__":
    sys.exit(main())
