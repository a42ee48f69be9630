"""The operator's log: a line per decision, as JSON for machines or as text for people."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """The message, and what else the record carries as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it where there is one."""
        extra = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in STANDARD)
        line = super().format(record)
        first, _, rest = line.partition("\n")
        return f"{first} {extra}".rstrip() + (f"\n{rest}" if rest else "")


def configure_logging(form: str, level: str) -> None:
    """Everything to standard error, in one ``form``: ``json`` or ``text``."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(
            JsonFormatter("{levelname}{name}{message}", style="{", rename_fields=names, timestamp="time")
        )
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # kopf tells every event it sees; at our level of interest only what it cannot do is news.
    for name in ("kopf", "kubernetes", "aiohttp.access"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # What ends kopf it tells with three tracebacks; we tell it once, and with one where it is a bug.
    logging.getLogger("kopf._core.reactor").setLevel(logging.CRITICAL)
