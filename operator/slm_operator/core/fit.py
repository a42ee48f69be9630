"""Whether an engine fits on what is there: where, by how much not, and what would make it fit.

Memory is compared with what nodes offer at best (allocatable, or a GPU's memory): what fits nowhere here will stay
Pending for ever, and what fits may still have to wait for others to leave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from slm_operator.core.fit_demand import Demand, device_bytes, splits
from slm_operator.core.fit_places import Place, Tolerations, find_places, is_repelling, snugness
from slm_operator.core.inventory import Inventory, NodeKind
from slm_operator.core.quantity import format_bytes
from slm_operator.core.resources import MIB

SHOWN_KINDS = 3
"""Node kinds that a sentence names of each sort: the message stays readable however many there are."""
CONTEXT_STEP = 256
"""llama.cpp rounds a slot's context up to it."""
SHORTEST_CONTEXT = 256
"""A shorter context would serve nobody: nothing below it is proposed."""
MOST_DEVICES = 16
"""The largest number of GPUs that is proposed for one node: what machines are built with."""
NO_GPU = "None offers a GPU: add one, or see whether its device plugin or DRA driver runs."
NO_NODE = "None is there that takes pods: see whether nodes are ready, and what spec.nodeSelector asks for."


@dataclass(frozen=True)
class Variant:
    """Other weights of the same model."""

    type: str
    """Quantization type, such as Q4_K_M."""
    size_bytes: int
    """Size of its file, bytes."""
    exists: bool
    """Whether it was made already; else the size is forecast."""


@dataclass(frozen=True)
class FitVerdict:
    """Where an engine fits, and where not."""

    fits: tuple[Place, ...]
    """Places that have the memory; GPUs first, those with the least to spare first."""
    misses: tuple[Place, ...]
    """Places that do not, the nearest miss first."""
    unknown: tuple[Place, ...]
    """GPUs whose memory nobody publishes."""
    repelled: tuple[NodeKind, ...]
    """Kinds of nodes with a taint that the service does not tolerate."""
    advice: tuple[str, ...]
    """What would make it fit; empty where it fits."""
    message: str
    """All of it in a few sentences, of bounded length."""


def check_fit(
    demand: Demand,
    inventory: Inventory,
    variants: Sequence[Variant] = (),
    tolerations: Tolerations = (),
    *,
    accelerator: str = "auto",
) -> FitVerdict:
    """The verdict for ``accelerator`` auto (CPUs and GPUs), none (CPUs) or gpu.

    ``tolerations`` are those of the pod; a GPU's own taint (``nvidia.com/gpu``) counts as tolerated by those who ask
    for the GPU, as Kubernetes' ExtendedResourceToleration makes it. Raises UnknownTypeError for an unknown KV type.
    """
    open_kinds: list[NodeKind] = []
    repelled: list[NodeKind] = []
    for kind in inventory.kinds:
        (repelled if is_repelling(kind, tolerations) else open_kinds).append(kind)
    places = [place for kind in open_kinds for place in find_places(kind, demand, accelerator, tolerations)]
    fits = sorted((place for place in places if place.fits), key=snugness)
    misses = sorted((place for place in places if place.missing_bytes), key=lambda place: place.missing_bytes)
    unknown = [place for place in places if not place.offered_bytes]

    def fits_with(other: Demand) -> bool:
        again = (find_places(kind, other, accelerator, tolerations) for kind in open_kinds)
        return any(place.fits for found in again for place in found)

    advice = () if fits or not misses else tuple(_advise(demand, variants, misses, fits_with))
    gpu_only = accelerator == "gpu" or demand.engine == "vllm"
    message = _describe(demand, fits, misses, unknown, repelled, advice, gpu_only=gpu_only)
    return FitVerdict(tuple(fits), tuple(misses), tuple(unknown), tuple(repelled), advice, message)


def _advise(
    demand: Demand, variants: Sequence[Variant], misses: Sequence[Place], fits_with: Callable[[Demand], bool]
) -> list[str]:
    """What would make it fit, the least change first."""
    if demand.requested_bytes:
        most = max((place.offered_bytes for place in misses if place.accelerator is None), default=0)
        return [f"spec.resources.requests.memory of at most {most // MIB}Mi"] if most else []
    advice = [*_smaller_variant(demand, variants, fits_with)]
    if demand.shape is not None:
        longest = _largest(lambda steps: fits_with(demand.with_context(steps * CONTEXT_STEP)), _steps_below(demand))
        if longest * CONTEXT_STEP >= SHORTEST_CONTEXT:
            advice.append(f"spec.contextSize {longest * CONTEXT_STEP} instead of {demand.context_size}")
        slots = _largest(lambda count: fits_with(demand.with_slots(count)), demand.slots - 1)
        if slots:
            advice.append(f"spec.parallel {slots} instead of {demand.slots}")
    if demand.draft is not None and fits_with(replace(demand, draft=None)):
        advice.append("no spec.speculative")
    if demand.adapters is not None and fits_with(replace(demand, adapters=None)):
        advice.append("no spec.adapters")
    return [*advice, *_more_devices(demand, misses)]


def _smaller_variant(demand: Demand, variants: Sequence[Variant], fits_with: Callable[[Demand], bool]) -> list[str]:
    """The largest smaller variant that exists and fits, else the largest that could be made."""
    smaller = [item for item in variants if item.size_bytes < demand.weights_bytes]
    for item in sorted(smaller, key=lambda item: (not item.exists, -item.size_bytes, item.type)):
        if fits_with(replace(demand, weights_bytes=item.size_bytes, variant=item.type)):
            origin = "which exists" if item.exists else "which a QuantJob can make"
            return [f"variant {item.type} of {format_bytes(item.size_bytes)}, {origin}"]
    return []


def _steps_below(demand: Demand) -> int:
    return -(-demand.context_size // CONTEXT_STEP) - 1


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to ``most`` for which ``holds``, 0 if none; what holds for one holds for less."""
    low, high = 0, max(most, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _more_devices(demand: Demand, misses: Sequence[Place]) -> list[str]:
    """The fewest GPUs of a kind that is there that would do, were they in one node."""
    found = []
    for place in misses:
        item = place.accelerator
        if item is None or item.partition or item.shared_by > 1:
            continue
        sizes = [size for size in splits(demand, MOST_DEVICES) if size > item.devices]
        enough = [size for size in sizes if device_bytes(demand, size, item) <= item.usable_bytes]
        found += [(enough[0], f"{enough[0]} x {item} in one node")] if enough else []
    return [min(found)[1]] if found else []


def _describe(
    demand: Demand,
    fits: Sequence[Place],
    misses: Sequence[Place],
    unknown: Sequence[Place],
    repelled: Sequence[NodeKind],
    advice: Sequence[str],
    *,
    gpu_only: bool,
) -> str:
    needs = f"The engine needs {demand.describe()}"
    short = _join([f"{place} lacks {_missing(place)}" for place in misses])
    if fits:
        named = _join([f"{place}{_on(place)}" for place in fits])
        return f"{needs} and fits on {named}." + (f" Too small: {short}." if misses else "")
    sentences = [f"{needs} and fits on no node" + (f": {short}." if misses else ".")]
    if not (misses or unknown or repelled):
        sentences.append(NO_GPU if gpu_only else NO_NODE)
    if unknown:
        sentences.append(
            f"Nobody publishes the memory of {_join([str(place) for place in unknown])}: install the vendor's feature"
            " discovery or DRA driver."
        )
    if repelled:
        kinds = _join([f"{kind.describe()}, {kind.taints[0].key}" for kind in repelled])
        sentences.append(f"Tainted, and not tolerated by spec.tolerations: {kinds}.")
    if advice:
        sentences.append(f"It would fit with {'; or '.join(advice)}.")
    elif misses and not unknown:
        sentences.append("Add a node with more memory, or serve a smaller model.")
    return " ".join(sentences)


def _missing(place: Place) -> str:
    """Of what it takes there, which is more than the engine's own need: its process, or what the driver keeps."""
    each = f" on each of {place.devices}" if place.devices > 1 else ""
    return f"{format_bytes(place.missing_bytes)} of {format_bytes(place.needed_bytes)}{each}"


def _on(place: Place) -> str:
    """How many of several GPUs are taken."""
    return f" using {place.devices}" if place.accelerator and place.accelerator.devices > 1 else ""


def _join(parts: Sequence[str]) -> str:
    """At most SHOWN_KINDS of them, and how many more there are."""
    more = len(parts) - SHOWN_KINDS
    return "; ".join(parts[:SHOWN_KINDS]) + (f"; and {more} more" if more > 0 else "")
