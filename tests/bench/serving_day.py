"""A bursty day of requests to one service: drawn, with what was measured in public traces, or read from one of them.

The drawn day has the burstiness of the Azure LLM inference traces of 2023 (Azure/AzurePublicDataset, ``data/``,
described in "Splitwise", arXiv 2311.18677). Computed from them: requests per minute of ``code`` have a coefficient of
variation of 1.03 (15 % of the minutes are empty, the busiest has four times the mean; in ``conv`` it is 0.25), and the
logarithm of the generated tokens of ``conv`` has mean 5.02 and standard deviation 0.86. That a Gamma distribution
describes such bursts is a finding of BurstGPT (arXiv 2401.17644). The hours of the day are an assumption, that of one
team's working day: the traces that were at hand last an hour.
"""

import csv
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

HOURS = (0.01, 0.01, 0.01, 0.01, 0.01, 0.02, 0.05, 0.2, 0.6, 0.9, 1.0, 0.9,
         0.6, 0.8, 1.0, 1.0, 0.9, 0.6, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)  # fmt: skip
"""Mean rate of each hour, as a share of that of the busiest."""
BUSIEST_PER_MINUTE = 60.0
MINUTE_VARIATION = 1.03
"""Coefficient of variation of the minutes of an hour."""
TOKENS_LOG_MEAN, TOKENS_LOG_DEVIATION = 5.02, 0.86
MOST_TOKENS = 1024
TOKENS_PER_SECOND = 40.0
"""Of one slot, with the others busy."""
PROMPT_SECONDS = 0.5
TRACE_PER_SECOND = 1.0
"""A recorded trace is thinned to about so many requests, which is what a few engines of this kind answer."""


@dataclass(frozen=True)
class Request:
    """One request."""

    at_seconds: float
    service_seconds: float
    """How long a slot is busy with it."""


def draw_day(seed: int, hours: tuple[float, ...] = HOURS) -> list[Request]:
    """The same day for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    shape = 1 / MINUTE_VARIATION**2
    requests: list[Request] = []
    for minute in range(60 * len(hours)):
        rate = BUSIEST_PER_MINUTE * hours[minute // 60] * chance.gammavariate(shape, 1 / shape)
        at = 60.0 * minute
        while rate > 0:
            at += chance.expovariate(rate / 60.0)
            if at >= 60.0 * (minute + 1):
                break
            tokens = chance.lognormvariate(TOKENS_LOG_MEAN, TOKENS_LOG_DEVIATION)
            requests.append(Request(at, _service_seconds(tokens)))
    return requests


def read_trace(path: Path) -> list[Request]:
    """A trace in Azure's form (TIMESTAMP, GeneratedTokens) or BurstGPT's (Timestamp, Response tokens), thinned."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(_seconds(row), _tokens(row)) for row in csv.DictReader(file)]
    if not rows:
        raise ValueError(f"{path} holds no requests: it needs the columns of Azure's or BurstGPT's traces")
    rows.sort()
    begin, end = rows[0][0], rows[-1][0]
    thin = max(1, round(len(rows) / max(1.0, end - begin) / TRACE_PER_SECOND))
    return [Request(at - begin, _service_seconds(tokens)) for at, tokens in rows[::thin]]


def _seconds(row: dict[str, str]) -> float:
    if "Timestamp" in row:
        return float(row["Timestamp"])
    # Seven decimals, of which Python reads six.
    return datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp()


def _tokens(row: dict[str, str]) -> float:
    return float(row["Response tokens" if "Response tokens" in row else "GeneratedTokens"])


def _service_seconds(tokens: float) -> float:
    return PROMPT_SECONDS + math.ceil(min(tokens, MOST_TOKENS)) / TOKENS_PER_SECOND
