"""Which engine serves, on what, and on how many GPUs: from what the spec asks for and what nodes offer."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import AcceleratorStatus, InferenceServiceSpec
from slm_operator.core.accelerator_labels import build_tolerations, find_memory_label, find_vendor
from slm_operator.core.accelerator_slices import DRIVERS
from slm_operator.core.accelerators import Published, build_inventory
from slm_operator.core.conditions import Verdict
from slm_operator.core.device_classes import (
    OF_DRIVERS,
    find_absent,
    find_device_class,
    keep_askable,
    read_classes,
)
from slm_operator.core.fit import Variant, check_fit
from slm_operator.core.fit_demand import Demand, device_bytes, splits
from slm_operator.core.fit_places import Place, snugness, tolerates
from slm_operator.core.inventory import Accelerator, Inventory, NodeKind
from slm_operator.core.placement import CPU, LLAMA_CPP, VLLM, Placement, Program
from slm_operator.core.plan import Manifest
from slm_operator.core.quantity import format_bytes
from slm_operator.core.runtime_choice import RuntimeChoice, choose_runtime, why_not_parallel
from slm_operator.core.sequence import Blocked

AUTO, NONE, ANY_GPU = WORDS = "auto", "none", "gpu"
"""What spec.accelerator may say beside the name of a resource or a DeviceClass."""
Engines = Mapping[tuple[str, str], Program]
"""``Placement.engines``."""
SOME_GPU = Accelerator("NVIDIA", "", 1)
"""Stands for any GPU where only the model and what is installed are looked at."""
ON_CPUS = "vllm alone serves this model, on CPUs where spec.runtime is vllm and spec.accelerator none."
TO_COME = "Where an autoscaler brings nodes with GPUs, name their resource in spec.accelerator, such as nvidia.com/gpu."


@dataclass(frozen=True)
class Choice:
    """An engine, and what it computes on."""

    runtime: str
    message: str
    """Why this engine, as a sentence."""
    accelerator: AcceleratorStatus


@dataclass(frozen=True)
class Wish:
    """What is to be served, and what the spec says about how."""

    spec: InferenceServiceSpec
    formats: Collection[str]
    """Of the weights: gguf, safetensors, or how these are quantized."""
    demand: Demand
    variants: Sequence[Variant] = ()
    """What could be served instead, for the sentence about what does not fit."""
    not_convertible: str = ""
    """Why llama.cpp can serve no GGUF of it, as a sentence."""

    def is_loaded_by(self, runtime: str) -> bool:
        """Whether the engine loads the weights, as they are or converted."""
        return not self.not_convertible if runtime == LLAMA_CPP else set(self.formats) != {"gguf"}

    def may_be_served_by(self, runtime: str) -> bool:
        """Whether the spec leaves it to the engine, and the engine loads the weights."""
        return self.runtime in (AUTO, runtime) and self.is_loaded_by(runtime)

    @property
    def runtime(self) -> str:
        """The engine that is asked for. Arguments are one engine's: those without a name are llama.cpp's."""
        spec = self.spec
        only = spec.runtime == AUTO and (spec.extra_args or _name_companion(spec))
        return LLAMA_CPP if only else self.spec.runtime

    @property
    def tolerations(self) -> list[Manifest]:
        """Of the pod."""
        return [each.model_dump() for each in self.spec.tolerations]

    def on(self, runtime: str) -> Demand:
        """What one engine of that runtime needs."""
        return replace(self.demand, engine=runtime)


def choose_engine(wish: Wish, published: Published, placement: Placement) -> Choice:
    """The engine for a service; raises Blocked RuntimeNotAvailable or DoesNotFit with what to change.

    Where nothing is ``published`` (the local backend, and where nodes may not be read) GPUs are asked for by name
    alone.
    """
    template = placement.templates.get(wish.runtime)
    if template is None:
        ours = {key: program for key, program in placement.engines.items() if key[0] not in placement.templates}
        return _choose_engine(wish, published, ours, local=placement.pods is None)
    # Its name stands for that of the engine it is like.
    name, like = wish.runtime, template.like
    programs = {(like, vendor): program for (own, vendor), program in placement.engines.items() if own == name}
    try:
        alike = replace(wish, spec=wish.spec.model_copy(update={"runtime": like}))
        choice = _choose_engine(alike, published, programs, local=placement.pods is None)
    except Blocked as blocked:
        verdict = blocked.verdict
        raise Blocked(replace(verdict, message=verdict.message.replace(like, name, 1))) from None
    return replace(choice, runtime=name, message=f"{name}: spec.runtime asks for it.")


def _choose_engine(wish: Wish, published: Published, engines: Engines, *, local: bool) -> Choice:
    _choose(wish, SOME_GPU, {runtime for runtime, _ in engines})
    if local:
        return _on_this_machine(wish, engines)
    if wish.spec.accelerator == NONE:
        return _on_cpus(wish, engines)
    inventory = find_offered(published, wish.spec)
    best = {}
    for runtime in (VLLM, LLAMA_CPP):
        places = list(_find_places(wish, runtime, inventory, engines))
        fitting = [place for place in places if place.fits] or [place for place in places if not place.offered_bytes]
        if fitting:
            best[runtime] = min(fitting, key=snugness)
    if best:
        return _on_gpus(wish, best, engines)
    if wish.spec.accelerator == AUTO and wish.may_be_served_by(LLAMA_CPP):
        return _on_cpus(wish, engines)
    if not any(kind.accelerators for kind in inventory.kinds):
        _require_classes(published, wish.spec)
    return _on_gpus_to_come(wish, inventory, published, engines)


def _choose(wish: Wish, accelerator: Accelerator | None, configured: Collection[str]) -> RuntimeChoice:
    """The engine among those that are configured for an accelerator; raises Blocked where none will do."""
    chosen = choose_runtime(
        wish.runtime, wish.formats, wish.spec.parallel, accelerator, configured, wish.not_convertible
    )
    if not chosen.runtime:
        raise Blocked(Verdict("stalled", Reason.RUNTIME_NOT_AVAILABLE, chosen.reason))
    if wish.runtime != wish.spec.runtime:
        beside = _name_companion(wish.spec)
        why = "spec.extraArgs are its arguments" if wish.spec.extra_args else f"{beside} goes with it"
        return replace(chosen, reason=f"{chosen.runtime}: {why} where spec.runtime is auto.")
    return chosen


def find_offered(published: Published, spec: InferenceServiceSpec) -> Inventory:
    """What nodes offer that the service's node selector admits, by the names that pods may ask for."""
    return keep_askable(_find_inventory(published, spec), _named(spec), read_classes(published.classes))


def _named(spec: InferenceServiceSpec) -> str:
    """The resource or DeviceClass that is asked for; empty where the spec names none."""
    return "" if spec.accelerator in WORDS else spec.accelerator


def _require_classes(published: Published, spec: InferenceServiceSpec) -> None:
    """Raise DoesNotFit where there are GPUs, and all that is missing is the DeviceClass to ask for them."""
    absent = find_absent(_find_inventory(published, spec), _named(spec), read_classes(published.classes))
    if absent:
        message = (
            f"Nodes offer GPUs for DeviceClass {', '.join(absent)}, which does not exist: see whether the DRA driver's "
            "chart makes it, or name another that selects them in spec.accelerator, such as deviceclass/my-gpus."
        )
        raise Blocked(Verdict("progressing", Reason.DOES_NOT_FIT, message))


def _find_inventory(published: Published, spec: InferenceServiceSpec) -> Inventory:
    wanted = spec.node_selector.items()
    nodes = [node for node in published.nodes if wanted <= (node["metadata"].get("labels") or {}).items()]
    return build_inventory(nodes, published.slices, by_claim=bool(find_device_class(spec.accelerator)))


def _find_places(wish: Wish, runtime: str, inventory: Inventory, engines: Engines) -> Iterator[Place]:
    """GPUs that pods can ask for, on nodes that let them in, for which there is a program."""
    if not wish.may_be_served_by(runtime):
        return
    for kind in inventory.kinds:
        for item in kind.accelerators:
            usable = item.devices and (runtime, item.vendor) in engines
            own = build_tolerations(item.resource, item.vendor)
            if usable and tolerates(kind.taints, [*wish.tolerations, *own]):
                yield from _place_on(kind, item, wish.on(runtime), wish.spec.tensor_parallel_size)


def _place_on(kind: NodeKind, item: Accelerator, demand: Demand, asked: int) -> Iterator[Place]:
    """The engine on so many of the GPUs, or on the fewest that will do; of unknown memory on one."""
    sizes = splits(demand, item.devices)
    if asked:
        possible = not why_not_parallel(demand, item, asked) if demand.engine == VLLM else asked in sizes
        sizes = [asked] if possible else []
    for size in sizes:
        place = Place(kind, item, size, device_bytes(demand, size, item), item.usable_bytes)
        if place.fits or not place.offered_bytes:
            yield place
            return


def _on_gpus(wish: Wish, best: Mapping[str, Place], engines: Engines) -> Choice:
    """The better of two engines that fit."""
    place = best.get(VLLM) or best[LLAMA_CPP]
    item = place.accelerator
    chosen = _choose(wish, item, [runtime for runtime, vendor in engines if item and vendor == item.vendor])
    if chosen.runtime in best:
        return Choice(chosen.runtime, chosen.reason, _describe(best[chosen.runtime]))
    (runtime, place), *_ = best.items()
    return Choice(runtime, f"{runtime}: it fits on {place}, where {chosen.runtime} does not.", _describe(place))


def _describe(place: Place) -> AcceleratorStatus:
    item = place.accelerator
    assert item is not None  # noqa: S101 - places on GPUs alone come here
    memory = f"{format_bytes(place.needed_bytes)} of {format_bytes(place.offered_bytes)}"
    each = " each" if place.devices > 1 else ""
    part = f", its part of a GPU that {item.shared_by} share" if item.shared_by > 1 else ""
    enough = f"it takes {memory}{each}{part}" if place.offered_bytes else "nobody publishes its memory"
    return AcceleratorStatus(
        resource=item.resource,
        device_class=item.device_class,
        partition=item.partition,
        vendor=item.vendor,
        count=place.devices,
        shared_by=item.shared_by,
        memory_bytes=place.needed_bytes if place.offered_bytes else 0,
        memory_label=find_memory_label(item) if place.offered_bytes else "",
        message=f"{place.devices} x {item}, as on {place.kind.nodes[0]}: {enough}.",
    )


def _on_this_machine(wish: Wish, engines: Engines) -> Choice:
    """On a laptop, where an engine finds GPUs itself."""
    count = wish.spec.tensor_parallel_size if wish.runtime == VLLM else 0
    return replace(
        _on_cpus(wish, engines), accelerator=AcceleratorStatus(count=count, message="What the engine finds.")
    )


def _on_cpus(wish: Wish, engines: Engines) -> Choice:
    """On CPUs, where vLLM serves only when it is asked for."""
    found = AcceleratorStatus(message="CPUs.")
    configured = {runtime for runtime, vendor in engines if vendor == CPU}
    if wish.runtime == VLLM and VLLM in configured:
        return Choice(VLLM, f"{VLLM}: spec.runtime asks for it.", found)
    chosen = _choose(wish, None, configured if wish.runtime == AUTO else {runtime for runtime, _ in engines})
    return Choice(chosen.runtime, chosen.reason, found)


def _on_gpus_to_come(wish: Wish, inventory: Inventory, published: Published, engines: Engines) -> Choice:
    """GPUs are asked for and none fits. What no node offers yet may come with a node that pods wait for."""
    asked, count = wish.spec.accelerator, wish.spec.tensor_parallel_size
    items = [item for kind in inventory.kinds for item in kind.accelerators]
    if _named(wish.spec) and not items:
        item = _name_gpus(asked, published)
        vendor = item.vendor
        chosen = _choose(wish, item, [runtime for runtime, other in engines if other == vendor])
        message = f"{count or 1} x {asked}: no node is known that offers it, so nobody knows whether the model fits."
        found = AcceleratorStatus(
            resource=item.resource, device_class=item.device_class, vendor=vendor, count=count or 1, message=message
        )
        return Choice(chosen.runtime, chosen.reason, found)
    served = {vendor for runtime, vendor in engines if wish.may_be_served_by(runtime)}
    offered = {item.vendor for item in items}
    if offered and not offered & served:
        message = f"No engine that may serve this has an image for GPUs of {', '.join(sorted(offered))}: give it one."
        raise Blocked(Verdict("stalled", Reason.RUNTIME_NOT_AVAILABLE, message))
    demand = wish.on(VLLM if wish.is_loaded_by(VLLM) and wish.runtime != LLAMA_CPP else LLAMA_CPP)
    if count and demand.engine == VLLM:
        problems = [why_not_parallel(demand, item, count) for item in items]
        if problems and all(problems):
            raise Blocked(Verdict("stalled", Reason.RUNTIME_NOT_AVAILABLE, problems[0]))
    # What a QuantJob makes is for llama.cpp.
    variants = () if wish.runtime == VLLM else wish.variants
    fit = check_fit(demand, inventory, variants, wish.tolerations, accelerator="gpu")
    hint = "" if items else f" {TO_COME}"
    if wish.not_convertible and asked == AUTO:
        hint += f" {ON_CPUS}"
    raise Blocked(Verdict("progressing", Reason.DOES_NOT_FIT, fit.message + hint))


def _name_gpus(asked: str, published: Published) -> Accelerator:
    """GPUs by a name that no node offers; raises Blocked where nobody knows whose they are."""
    if name := find_device_class(asked):
        classes = read_classes(published.classes) if published.nodes else OF_DRIVERS
        if (found := classes.get(name)) and (vendor := DRIVERS.get(found.driver)):
            return Accelerator(vendor, "", 1, device_class=name)
        message = (
            f"No DeviceClass {name} is known that selects devices of {', '.join(DRIVERS)}: create it, or name another "
            "in spec.accelerator."
        )
        raise Blocked(Verdict("progressing", Reason.DOES_NOT_FIT, message))
    if vendor := find_vendor(asked):
        return Accelerator(vendor, "", 1, resource=asked)
    message = f"{asked} is no resource of NVIDIA, AMD or Intel, for whose GPUs engines are built: name one of theirs."
    raise Blocked(Verdict("stalled", Reason.RUNTIME_NOT_AVAILABLE, message))


def _name_companion(spec: InferenceServiceSpec) -> str:
    """A field that is given and with which llama.cpp serves unless another engine is asked for; empty for none."""
    given = {"speculative": spec.speculative, "projectorRef": spec.projector_ref}
    return next((f"spec.{name}" for name, value in given.items() if value), "")
