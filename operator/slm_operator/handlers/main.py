"""``slm-operator``: the process that reconciles the three kinds on a cluster."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from slm_operator.errors import SlmError
from slm_operator.handlers.program import EXIT_MALFORMED, begin
from slm_operator.handlers.replica import Replica
from slm_operator.settings import OperatorSettings

EPILOG = """All settings are environment variables that start with SLM_: docs/reference/settings.md lists them.

examples:
  slm-operator                                        in a Pod, with its service account
  KUBECONFIG=~/.kube/config slm-operator              from a laptop, all namespaces
  SLM_WATCH_NAMESPACES=team-a,team-b slm-operator     only these

exit codes: 0 told to stop, 1 no API server, no CRDs or a fault, 2 a malformed setting"""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    description = "Reconcile SLMModels, QuantJobs and InferenceServices on a Kubernetes cluster."
    settings = begin("slm-operator", description, EPILOG, OperatorSettings, argv)
    if settings is None:
        return EXIT_MALFORMED
    try:
        asyncio.run(Replica(settings).run())
    except SlmError as error:
        log.error(str(error))  # noqa: TRY400 - a sentence for the user, not a traceback
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
