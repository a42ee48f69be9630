"""Figures and names as people read them."""

import math

MISSING = "\N{EN DASH}"
"""Shown where a figure was not measured."""


def finite(value: float | None) -> float | None:
    """The value, or None for what is missing, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def clean(text: str) -> str:
    """Text without control and direction characters, which could make a name look like another."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def number(value: float | None, form: str) -> str:
    """The value in a format such as ``.2f``, or a dash."""
    known = finite(value)
    return MISSING if known is None else format(known, form)


def small(value: float | None) -> str:
    """A divergence: four decimals, or three digits where those would show nothing."""
    known = finite(value)
    if known is None:
        return MISSING
    return f"{known:.4f}" if known == 0 or abs(known) >= 1e-3 else f"{known:.2e}"  # noqa: PLR2004 - what four decimals show


def size(count: int) -> str:
    """Bytes in MiB or GiB; a dash for 0."""
    if not count:
        return MISSING
    return f"{count / 2**30:.2f} GiB" if count >= 1 << 30 else f"{count / 2**20:.1f} MiB"


def with_error(value: float | None, error: float | None) -> str:
    """``52.3 ± 0.4``, without the error where it is not known."""
    spread = finite(error)
    return number(value, ".1f") + (f" ± {spread:.1f}" if spread is not None and finite(value) is not None else "")


def count(value: int) -> str:
    """A count of weights: 1.72 billion, 596 million."""
    if not value:
        return MISSING
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name} ({value:,})"
    return f"{value:,}"
