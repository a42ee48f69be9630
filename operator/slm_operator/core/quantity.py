"""Kubernetes quantities and CPU threads."""

from decimal import Decimal, InvalidOperation

SUFFIXES = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}
"""Suffix to factor, from the Kubernetes resource model."""


def parse_quantity(text: str) -> Decimal:
    """``1500m`` → 1.5, ``2Gi`` → 2147483648; raises ValueError with the text."""
    digits = text.rstrip("kKMGTim")
    try:
        return Decimal(digits) * SUFFIXES[text[len(digits) :]]
    except (InvalidOperation, KeyError) as error:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 4Gi") from error


def plan_threads(cpu_limit: str, machine_cpus: int) -> int:
    """Worker threads of an engine: its CPU limit rounded down, at least one, never more than the machine has.

    llama.cpp takes the machine's cores whatever the quota says; with a quota of 2 on a larger machine that costs
    a factor of 30 and more in tokens per second (threads spin while the quota throttles them).
    """
    if not cpu_limit:
        return max(1, machine_cpus)
    return max(1, min(int(parse_quantity(cpu_limit)), machine_cpus))


def format_bytes(count: float) -> str:
    """Bytes for people, in binary units: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - binary units step by 1024
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
