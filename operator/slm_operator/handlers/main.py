"""``slm-operator``: the process that reconciles the three kinds on a cluster."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from prometheus_client import disable_created_metrics
from pydantic import ValidationError

from slm_operator.errors import SlmError
from slm_operator.handlers.logs import configure_logging
from slm_operator.handlers.replica import Replica
from slm_operator.settings import OperatorSettings

EPILOG = """All settings are environment variables that start with SLM_: docs/reference/settings.md lists them.

examples:
  slm-operator                                        in a Pod, with its service account
  KUBECONFIG=~/.kube/config slm-operator              from a laptop, all namespaces
  SLM_WATCH_NAMESPACES=team-a,team-b slm-operator     only these

exit codes: 0 told to stop, 1 no API server, no CRDs or a fault, 2 a malformed setting"""

log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command line, which has no options: a Deployment sets variables."""
    return argparse.ArgumentParser(
        prog="slm-operator",
        description="Reconcile SLMModels, QuantJobs and InferenceServices on a Kubernetes cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    build_parser().parse_args(argv)
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    disable_created_metrics()  # type: ignore[no-untyped-call]  # A second series per counter that nobody draws.
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(Replica(settings).run())
    except SlmError as error:
        log.error(str(error))  # noqa: TRY400 - a sentence for the user, not a traceback
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
