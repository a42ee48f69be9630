"""What a check of ``slm doctor`` found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    mark: Literal["ok", "warn", "fail"]
    subject: str
    text: str
