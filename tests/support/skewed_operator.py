"""The operator on a machine whose clock is wrong by ``SKEW_SECONDS``; seconds are as long as on any other."""

import datetime as dt
import os
import sys
import time
from typing import Any

SKEW = dt.timedelta(seconds=float(os.environ["SKEW_SECONDS"]))
true_time = time.time


class SkewedTime(dt.datetime):
    """``datetime`` as the operator's modules see it."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """The wrong time."""
        return dt.datetime.now(tz) + SKEW


def skew() -> None:
    """Make the clock wrong for every module of the operator, and for whoever asks ``time``."""
    time.time = lambda: true_time() + SKEW.total_seconds()
    for name, module in list(sys.modules.items()):
        if name.startswith("slm_operator") and getattr(module, "datetime", None) is dt.datetime:
            module.datetime = SkewedTime  # type: ignore[attr-defined]


if __name__ == "__main__":
    from slm_operator.handlers.main import main

    skew()
    sys.exit(main())
