"""What came of the requests of one step of a canary: how many failed, and how fast the others were.

Times are kept as sums of their logarithms. They spread over orders of magnitude, with prompts' lengths for one, so that
a mean would tell of the longest alone; the geometric mean is near the median, and sums of several gateways add up.
"""

import math
from dataclasses import dataclass, field

SHORTEST_SECONDS = 1e-3
"""What is measured as shorter counts as so long: tokens that arrive in one piece seem to have taken no time at all, and
the logarithm of that would outweigh all others."""


@dataclass(frozen=True)
class Times:
    """Durations, by the sums of their natural logarithms and of the squares of those."""

    count: int = 0
    log_sum: float = 0.0
    log_squares: float = 0.0

    @classmethod
    def of(cls, seconds: float) -> "Times":
        """One duration."""
        logarithm = math.log(max(seconds, SHORTEST_SECONDS))
        return cls(1, logarithm, logarithm * logarithm)

    def __add__(self, other: "Times") -> "Times":
        return Times(self.count + other.count, self.log_sum + other.log_sum, self.log_squares + other.log_squares)

    @property
    def log_mean(self) -> float:
        """Logarithm of the geometric mean; 0 where there is none."""
        return self.log_sum / self.count if self.count else 0.0

    @property
    def mean_seconds(self) -> float:
        """The geometric mean."""
        return math.exp(self.log_mean)

    @property
    def log_deviations(self) -> float:
        """Sum of the squares by which logarithms are off their mean."""
        return max(0.0, self.log_squares - self.count * self.log_mean**2)


@dataclass(frozen=True)
class Tally:
    """The requests of one track."""

    requests: int = 0
    """That were answered, or that an engine failed."""
    errors: int = 0
    """That an engine failed; another one may have answered them."""
    first_token: Times = field(default_factory=Times)
    """Of streams, from an engine's having a slot to the first byte."""
    per_token: Times = field(default_factory=Times)
    """Of streams, after the first token."""
    unstreamed: Times = field(default_factory=Times)
    """Of other answers, from an engine's having a slot to the end, by the tokens if there are any. The prompt has its
    part in it, so that this is no sample of the same as ``per_token``."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.requests + other.requests,
            self.errors + other.errors,
            self.first_token + other.first_token,
            self.per_token + other.per_token,
            self.unstreamed + other.unstreamed,
        )

    @property
    def error_rate(self) -> float:
        """Share that failed; 0 where there is none."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Answers:
    """Both tracks in one step."""

    step: str
    """Which one: ``name_step``."""
    stable: Tally = field(default_factory=Tally)
    canary: Tally = field(default_factory=Tally)

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(self.step, self.stable + other.stable, self.canary + other.canary)


def name_step(template: str, percent: int, since: str) -> str:
    """Name of a step that no other has: gateways count by it, so that what belongs to another one is left out."""
    return f"{template}/{percent}/{since}"
