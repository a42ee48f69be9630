"""What programs on a cluster begin with: a command line without options, as a Deployment sets variables, and a log."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from prometheus_client import disable_created_metrics
from pydantic import ValidationError

from slm_operator.handlers.logs import configure_logging
from slm_operator.settings import GatewaySettings, OperatorSettings

EXIT_MALFORMED = 2
Chosen = TypeVar("Chosen", OperatorSettings, GatewaySettings)


def begin(
    name: str, description: str, epilog: str, read_settings: Callable[[], Chosen], argv: Sequence[str] | None
) -> Chosen | None:
    """The settings, with the log set up by them; None where they are malformed, which has been told then."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog=name, description=description, epilog=epilog, formatter_class=formatter).parse_args(
        argv
    )
    try:
        settings = read_settings()
    except ValidationError as error:
        sys.stderr.write(f"{error}\n")
        return None
    disable_created_metrics()  # type: ignore[no-untyped-call]  # A second series per counter that nobody draws.
    configure_logging(settings.log_format, settings.log_level)
    return settings
