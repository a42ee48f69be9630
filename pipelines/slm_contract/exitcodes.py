"""Exit codes of ``python -m slm_pipelines``; the values are those of BSD ``sysexits.h``."""

from typing import Final

OK: Final = 0
"""The step did its work and wrote its result."""

USAGE: Final = 64
"""The command line or the spec file is malformed (EX_USAGE). Never retried."""

BAD_INPUT: Final = 65
"""The model, text or source is at fault (EX_DATAERR). Retrying cannot help; the Job fails at once."""

INTERNAL: Final = 70
"""A bug in the step (EX_SOFTWARE). Retried up to the Job's backoff limit, then surfaced."""

RETRYABLE: Final = 75
"""The network, the disk or another process was at fault (EX_TEMPFAIL). Retried with back-off."""
