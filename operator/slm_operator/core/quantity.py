"""Kubernetes quantities and CPU threads."""

from decimal import Decimal, InvalidOperation

SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
"""Suffix to factor, from the Kubernetes resource model; an API server may answer in any of them."""


def parse_quantity(text: str) -> Decimal:
    """``1500m`` → 1.5, ``2Gi`` → 2147483648, ``1e3`` → 1000; raises ValueError with the text."""
    digits = text.rstrip("numkKMGTPEi")
    try:
        return Decimal(digits) * SUFFIXES[text[len(digits) :]]
    except (InvalidOperation, KeyError) as error:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 4Gi") from error


def format_mebibytes(count: float) -> str:
    """Bytes as a quantity that people can read, rounded up: 1500000 → ``2Mi``."""
    return f"{-(-int(count) // 2**20)}Mi"


def plan_threads(cpu_limit: str, machine_cpus: int) -> int:
    """Worker threads of an engine: its CPU limit rounded down, at least one, never more than the machine has.

    Where the machine is not known (0) and there is no limit, 0: whoever starts the engine has to count.

    llama.cpp takes the machine's cores whatever the quota says; with a quota of 2 on a larger machine that costs
    a factor of 30 and more in tokens per second (threads spin while the quota throttles them).
    """
    if not cpu_limit:
        return machine_cpus
    allowed = int(parse_quantity(cpu_limit))
    return max(1, min(allowed, machine_cpus) if machine_cpus else allowed)


def format_bytes(count: float) -> str:
    """Bytes for people, in binary units: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - binary units step by 1024
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
