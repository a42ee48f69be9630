"""Reading manifests that others wrote: whatever has the wrong type is as if it were absent."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from slm_operator.core.quantity import parse_quantity

LARGEST = Decimal(2**63)
"""Quantities are 64-bit integers at most (``resource.Quantity``); more is nonsense."""


def as_mapping(given: object) -> Mapping[str, Any]:
    """The mapping, or an empty one."""
    return given if isinstance(given, Mapping) else {}


def as_list(given: object) -> Sequence[Any]:
    """The list, or an empty one."""
    return given if isinstance(given, list | tuple) else ()


def as_text(given: object) -> str:
    """The text; numbers as text; else empty."""
    return given if isinstance(given, str) else str(given) if isinstance(given, int | float) else ""


def as_quantity(given: object) -> Decimal | None:
    """A quantity that is no negative number, or None."""
    try:
        value = parse_quantity(as_text(given).strip())
    except (ValueError, ArithmeticError):
        return None
    return value if value.is_finite() and 0 <= value <= LARGEST else None


def as_count(given: object) -> int | None:
    """A whole number that is not negative, in plain ASCII digits, or None."""
    text = as_text(given).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(2**63)) else None
