"""Figures for people: ages, counts, rates."""

from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86400
SHOWN_IN_SECONDS = 2 * MINUTE
SHOWN_IN_MINUTES = 2 * HOUR
SHOWN_IN_HOURS = 2 * DAY
COUNT_STEPS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


def format_duration(seconds: float) -> str:
    """A duration in one unit, as kubectl prints it: 119s, 119m, 47h, 5d."""
    whole = max(0, int(seconds))
    if whole < SHOWN_IN_SECONDS:
        return f"{whole}s"
    if whole < SHOWN_IN_MINUTES:
        return f"{whole // MINUTE}m"
    return f"{whole // HOUR}h" if whole < SHOWN_IN_HOURS else f"{whole // DAY}d"


def format_age(timestamp: object, now: datetime) -> str:
    """Time since an RFC 3339 timestamp; ``<unknown>`` when it is none."""
    try:
        then = datetime.fromisoformat(str(timestamp)).astimezone(UTC)
    except ValueError:
        return "<unknown>"
    return format_duration((now - then).total_seconds())


def count_processes(number: int) -> str:
    """``1 process`` or ``2 processes``."""
    return "1 process" if number == 1 else f"{number} processes"


def format_count(number: int) -> str:
    """A count of parameters: 596049920 → 0.6B, 2100000 → 2.1M."""
    for factor, suffix in COUNT_STEPS:
        # From half a step on, the larger unit is the one people use: 0.6B, not 596M.
        if number >= factor / 2:
            return f"{number / factor:.1f}{suffix}"
    return str(number)
