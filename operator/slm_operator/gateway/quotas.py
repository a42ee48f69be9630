"""How much each key may ask for: requests and tokens per minute, and requests at a time.

One gateway counts for itself: with several, each lets through as much.
"""

from dataclasses import dataclass
from http import HTTPStatus
from math import ceil

from slm_operator.gateway.keys import ApiKey
from slm_operator.gateway.refusal import Refusal

MINUTE_SECONDS = 60.0


@dataclass
class Bucket:
    """A minute's worth at most, refilled steadily (a token bucket)."""

    per_minute: int
    level: float
    filled: float

    def wait_seconds(self, amount: float, now: float) -> float:
        """How long until so much is there; 0: it is."""
        rate = self.per_minute / MINUTE_SECONDS
        self.level = min(float(self.per_minute), self.level + (now - self.filled) * rate)
        self.filled = now
        if self.level >= amount:
            return 0.0
        return (amount - self.level) / rate if rate else MINUTE_SECONDS

    def take(self, amount: float) -> None:
        """Use so much; tokens are counted when they have come, so the level may go below nothing."""
        self.level -= amount


@dataclass
class _Use:
    requests: Bucket | None
    tokens: Bucket | None
    in_flight: int = 0


class Quotas:
    """What each key has used."""

    def __init__(self) -> None:
        self._uses: dict[ApiKey, _Use] = {}

    def begin(self, key: ApiKey, now: float) -> None:
        """A request begins; raises Refusal, and then it has not. ``now`` is any steady clock's, in seconds."""
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = _Use(_full(key.requests_per_minute, now), _full(key.tokens_per_minute, now))
        if key.max_in_flight is not None and use.in_flight >= key.max_in_flight:
            raise _too_many(f"{key.max_in_flight} requests at a time", 1.0)
        if use.requests is not None and (seconds := use.requests.wait_seconds(1, now)):
            raise _too_many(f"{key.requests_per_minute} requests per minute", seconds)
        if use.tokens is not None and (seconds := use.tokens.wait_seconds(1, now)):
            raise _too_many(f"{key.tokens_per_minute} tokens per minute", seconds)
        if use.requests is not None:
            use.requests.take(1)
        use.in_flight += 1

    def end(self, key: ApiKey, tokens: int) -> None:
        """The request has ended and took so many tokens, of its prompt and its answer."""
        use = self._uses.get(key)
        if use is None:
            return
        use.in_flight -= 1
        if use.tokens is not None:
            use.tokens.take(tokens)

    def keep(self, keys: set[ApiKey]) -> None:
        """Forget all others; those with requests under way stay until the next time."""
        self._uses = {key: use for key, use in self._uses.items() if key in keys or use.in_flight}


def _full(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, float(per_minute), now)


def _too_many(limit: str, seconds: float) -> Refusal:
    message = f"This key may send {limit}: try again in {ceil(seconds)} s, or ask for a larger limit."
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded", message, ceil(seconds))
