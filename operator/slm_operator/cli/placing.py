"""Which objects ``slm run`` and ``pull`` need, and which of them must be written: what exists is used as it is."""

from dataclasses import dataclass, field

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.api.quantjob import DEFAULT_VARIANTS
from slm_operator.api.registry import parse_resource
from slm_operator.cli.exits import USAGE, CommandFailed
from slm_operator.cli.identity import complete_spec, identity_of
from slm_operator.cli.naming import (
    MADE_BY,
    UNQUANTIZED,
    ModelRequest,
    build_model,
    build_quant_job,
    build_service,
    derive_name,
    parse_model,
)
from slm_operator.cli.session import display_name
from slm_operator.errors import InvalidManifest
from slm_operator.ports import Manifest, ObjectKey

DEFAULT_VARIANT = "Q4_K_M"
STOPPED_REPLICAS = "slm.dev/stopped-replicas"
"""Annotation in which ``slm stop`` keeps the number of engines that ``slm run`` brings back."""


@dataclass(frozen=True)
class Placement:
    """Objects that a request needs, what others are made of first, and what must be written for them."""

    keys: list[ObjectKey]
    writes: list[Manifest] = field(default_factory=list)

    def __add__(self, other: "Placement") -> "Placement":
        return Placement(self.keys + other.keys, self.writes + other.writes)


async def write_placement(cluster: SqliteCluster, placement: Placement) -> None:
    """Write what must be written; raises Conflict when an object changed since it was read."""
    for manifest in placement.writes:
        await cluster.apply(manifest)


def _place(manifest: Manifest) -> Placement:
    """A new object; raises CommandFailed USAGE when its name or a value of the command line is not valid."""
    meta = manifest["metadata"]
    try:
        parse_resource(manifest)
    except InvalidManifest as error:
        raise CommandFailed(f"No {manifest['kind']} can be made of this: {error}.", USAGE) from error
    return Placement([ObjectKey(manifest["kind"], meta["namespace"], meta["name"])], [manifest])


async def place_model(cluster: SqliteCluster, text: str, namespace: str) -> Placement:
    """The SLMModel that MODEL means: one of that name, one of that source, or a new one."""
    key = ObjectKey("SLMModel", namespace, text)
    if "/" not in text and await cluster.get(key):
        return Placement([key])
    request = parse_model(text)
    name = await find_free_name(cluster, request, namespace)
    key = ObjectKey("SLMModel", namespace, name)
    return Placement([key]) if await cluster.get(key) else _place(build_model(name, namespace, request.source))


async def find_free_name(cluster: SqliteCluster, request: ModelRequest, namespace: str) -> str:
    """The first name that is free or already means this source."""
    for name in request.names:
        found = await cluster.get(ObjectKey("SLMModel", namespace, name))
        if found is None or identity_of(found) == identity_of(build_model(name, namespace, request.source)):
            return name
    names = " and ".join(request.names)
    raise CommandFailed(
        f"The names {names} are taken by models from other sources: apply a manifest with its own name."
    )


@dataclass(frozen=True)
class Served:
    """What a service serves; an empty variant is the one that its QuantJob chose, ``none`` the model as it is."""

    model: str
    variant: str
    job: str = ""

    def __str__(self) -> str:
        if not self.job:
            return f"slmmodel.slm.dev/{self.model} unquantized"
        return f"{self.variant or 'the chosen variant'} of quantjob.slm.dev/{self.job}"


async def find_served(cluster: SqliteCluster, service: Manifest) -> Served:
    """What an existing service serves; its model is unknown, and empty, while its QuantJob does not exist."""
    reference = service["spec"].get("quantJobRef")
    if not reference:
        return Served(service["spec"]["modelRef"]["name"], UNQUANTIZED)
    job = await cluster.get(ObjectKey("QuantJob", service["metadata"]["namespace"], reference["name"]))
    model = job["spec"]["modelRef"]["name"] if job else ""
    return Served(model, reference.get("variant") or "", reference["name"])


async def place_service(cluster: SqliteCluster, model: ObjectKey, variant: str | None, name: str) -> Placement:
    """The service of that name, with the QuantJob it refers to, if any, before it.

    Without a variant any service of the model will do. Raises CommandFailed when what exists serves something else.
    """
    key = ObjectKey("InferenceService", model.namespace, name)
    found = await cluster.get(key)
    wanted = _wanted(model, variant or DEFAULT_VARIANT)
    if found is None:
        return await _place_job(cluster, model, wanted) + _place(_build(key, wanted))
    served = await find_served(cluster, found)
    if _is_wanted(served, model, variant):
        jobs = [ObjectKey("QuantJob", key.namespace, served.job)] if served.job else []
        return Placement([*jobs, key], _woken(found))
    if not served.model and (served.job, served.variant) == (wanted.job, wanted.variant):
        return await _place_job(cluster, model, wanted) + Placement([key], _woken(found))
    if variant is None or not found["metadata"].get("annotations", {}).get(MADE_BY):
        raise CommandFailed(_refusal(key, served, model, str(wanted) if variant else display_name(model)))
    spec = {field: value for field, value in found["spec"].items() if field not in ("modelRef", "quantJobRef")}
    changed = {**found, "spec": {**_build(key, wanted)["spec"], **spec}}
    return await _place_job(cluster, model, wanted) + Placement([key], _woken(changed) or [changed])


def _wanted(model: ObjectKey, variant: str) -> Served:
    if variant.lower() == UNQUANTIZED:
        return Served(model.name, UNQUANTIZED)
    # llama.cpp takes either case; a QuantJob names its variants in the usual one.
    return Served(model.name, variant.upper(), f"{model.name[: 51 - len(variant)]}-{derive_name(variant)}")


def _is_wanted(served: Served, model: ObjectKey, variant: str | None) -> bool:
    return served.model == model.name and (variant is None or served.variant.lower() == variant.lower())


def _build(key: ObjectKey, served: Served) -> Manifest:
    reference: Manifest = {"quantJobRef": {"name": served.job, "variant": served.variant}}
    return build_service(key.name, key.namespace, reference if served.job else {"modelRef": {"name": served.model}})


async def _place_job(cluster: SqliteCluster, model: ObjectKey, wanted: Served) -> Placement:
    """The QuantJob of that variant: one that exists is left alone, and refused if it does not make the variant."""
    if not wanted.job:
        return Placement([])
    key = ObjectKey("QuantJob", model.namespace, wanted.job)
    found = await cluster.get(key)
    if found is None:
        return _place(build_quant_job(key.name, key.namespace, model.name, wanted.variant))
    spec = complete_spec(found)
    makes = [*(spec.get("variants") or DEFAULT_VARIANTS)]
    if spec["modelRef"]["name"] == model.name and wanted.variant in makes:
        return Placement([key])
    made = f"{', '.join(makes)} of slmmodel.slm.dev/{spec['modelRef']['name']}"
    raise CommandFailed(
        f"{display_name(key)} exists already and makes {made}, not {wanted.variant} of {display_name(model)}: "
        f"delete it with slm delete qj/{key.name}, or ask for another variant with --variant."
    )


def _woken(service: Manifest) -> list[Manifest]:
    """The service with the engines it had before it was stopped; empty when it is not stopped."""
    if service["spec"].get("replicas") != 0:
        return []
    annotations = dict(service["metadata"].get("annotations", {}))
    before = annotations.pop(STOPPED_REPLICAS, "")
    replicas = max(1, int(before)) if before.isascii() and before.isdigit() else 1
    meta, spec = service["metadata"], service["spec"]
    return [{**service, "metadata": {**meta, "annotations": annotations}, "spec": {**spec, "replicas": replicas}}]


def build_stopped(service: Manifest) -> Manifest:
    """The service without engines, and with the number it had."""
    meta, replicas = service["metadata"], service["spec"].get("replicas", 1)
    kept = {STOPPED_REPLICAS: str(replicas)} if replicas else {}
    annotations = {**meta.get("annotations", {}), **kept}
    return {**service, "metadata": {**meta, "annotations": annotations}, "spec": {**service["spec"], "replicas": 0}}


def _refusal(key: ObjectKey, served: Served, model: ObjectKey, wanted: str) -> str:
    ways = [f"delete it with slm delete slmsvc/{key.name}"]
    if served.model == model.name:
        ways.append(f"take it as it is with --variant {served.variant}" if served.variant else "leave out --variant")
    ways.append("choose another name with --name")
    return (
        f"{display_name(key)} exists already and serves {served}, not {wanted}: {', '.join(ways[:-1])}, or {ways[-1]}."
    )
