"""What the gateway knows of a service, read from the objects of a cluster."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from slm_contract.reasons import Reason
from slm_operator.core.answers import name_step
from slm_operator.core.manifests.deployment import (
    ANNOTATION_ADAPTERS,
    ANNOTATION_BLOB,
    ANNOTATION_BY_NAME,
    ANNOTATION_SLOTS,
)
from slm_operator.core.manifests.metadata import CANARY, LABEL_STEP
from slm_operator.core.manifests.network import ENGINE_PORT
from slm_operator.core.plan import Manifest
from slm_operator.core.plan_quantjob import BASELINE_LABEL
from slm_operator.core.pods import is_ready
from slm_operator.gateway.directory import About, Canary, Endpoint, Service

FINAL = frozenset(
    {
        *(Reason.INVALID_SPEC, Reason.FORMAT_MISMATCH, Reason.NOT_CONVERTIBLE, Reason.RUNTIME_NOT_AVAILABLE),
        *(Reason.ADAPTER_MISMATCH, Reason.UNSUPPORTED_ADAPTER, Reason.VOCABULARY_MISMATCH, Reason.PROJECTOR_MISMATCH),
        *(Reason.SOURCE_NOT_SUPPORTED, Reason.NAME_CONFLICT),
    }
)
"""Reasons of a stalled service that last until somebody changes something; others may pass by themselves."""


def read_service(
    manifest: Manifest,
    pods: Iterable[Manifest],
    quant_job: Manifest | None,
    model: Manifest | None,
    *,
    scaled_by_others: bool = True,
) -> Service:
    """An InferenceService with its engines, the QuantJob that it names, and the SLMModel of either.

    The objects were accepted by their schema, yet any of them may be new, half filled in, or gone.
    ``scaled_by_others``: an autoscaler of somebody else's may start engines of what has none.
    """
    meta, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    model_name = _reference(spec, "modelRef") or _reference((quant_job or {}).get("spec") or {}, "modelRef")
    variant = status.get("variant", "")
    named = tuple(each["name"] for each in spec.get("adapters") or ())
    engines = tuple(_read_engine(pod, spec) for pod in sorted(filter(_takes_requests, pods), key=_name))
    return Service(
        meta["namespace"],
        meta["name"],
        served_name=meta["name"],
        digest=status.get("digest", ""),
        endpoints=engines,
        aliases=_aliases(model_name, variant),
        created=_unix_time(meta.get("creationTimestamp", "")),
        canary=_read_canary(status.get("canary") or {}),
        about=_describe(spec, status, (model or {}).get("status") or {}),
        adapters=_adapters(named, engines),
        to_come=frozenset(named),
        no_engine=_why_no_engine(meta, status, scaled_by_others=scaled_by_others),
    )


def _why_no_engine(meta: Mapping[str, Any], status: Mapping[str, Any], *, scaled_by_others: bool) -> str:
    """As far as the status is of this very spec and there is no engine, not even one that starts."""
    if status.get("observedGeneration") != meta.get("generation") or status.get("replicas"):
        return ""
    found = {each["type"]: each for each in status.get("conditions") or ()}
    reason = found.get("Ready", {}).get("reason", "")
    if reason == Reason.STOPPED and not scaled_by_others:
        return "it is stopped, until spec.replicas is 1 or more"
    final = found.get("Stalled", {}).get("status") == "True" and reason in FINAL
    return f"its condition Ready is {reason}, whose message says what to change" if final else ""


def _reference(spec: Mapping[str, Any], field: str) -> str:
    return str((spec.get(field) or {}).get("name", ""))


def _aliases(model: str, variant: str) -> tuple[str, ...]:
    """The model's name, and the same with the variant that is served."""
    if not model:
        return ()
    return (model, f"{model}:{variant}") if variant and variant != BASELINE_LABEL else (model,)


def _adapters(named: tuple[str, ...], engines: Sequence[Endpoint]) -> tuple[str, ...]:
    """What some engine holds: during a rollout from the first one's change to the last one's."""
    if not engines:
        return named
    return tuple(dict.fromkeys(name for each in engines for name in each.adapters))


def _takes_requests(pod: Manifest) -> bool:
    return is_ready(pod) and "deletionTimestamp" not in pod["metadata"] and bool(pod["status"].get("podIP"))


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def _read_engine(pod: Manifest, spec: Mapping[str, Any]) -> Endpoint:
    """On this machine each pod has a port of its own, on a cluster an address of its own.

    What it serves, and how many at a time, it says itself: during a rollout engines differ.
    """
    meta, status = pod["metadata"], pod["status"]
    annotations = meta.get("annotations") or {}
    return Endpoint(
        meta["name"],
        status["podIP"],
        status.get("port") or ENGINE_PORT,
        digest=annotations.get(ANNOTATION_BLOB, ""),
        canary=(meta.get("labels") or {}).get(LABEL_STEP) == CANARY,
        slots=int(annotations.get(ANNOTATION_SLOTS) or spec.get("parallel", 1)),
        adapters=tuple(filter(None, annotations.get(ANNOTATION_ADAPTERS, "").split(","))),
        by_name=annotations.get(ANNOTATION_BY_NAME) == "true",
    )


def _read_canary(status: Mapping[str, Any]) -> Canary | None:
    percent = status.get("percent", 0)
    return Canary(name_step(status.get("template", ""), percent, status.get("since", "")), percent) if percent else None


def _describe(spec: Mapping[str, Any], status: Mapping[str, Any], model: Mapping[str, Any]) -> About:
    longest = model.get("contextLength", 0)
    wanted = spec.get("contextSize", 0)
    as_they_came = status.get("digest", "") == model.get("digest", "") != ""
    return About(
        variant=status.get("variant", ""),
        format="safetensors" if as_they_came else "gguf",
        task=spec.get("task", "generate"),
        sees=bool(spec.get("projectorRef")),
        on_gpu=bool((status.get("accelerator") or {}).get("count")),
        family=model.get("architecture", ""),
        parameters=model.get("parameters", 0),
        license=model.get("license", ""),
        context_size=min(wanted, longest) if longest else wanted,
        size_bytes=status.get("sizeBytes", 0),
        memory_bytes=status.get("memoryBytes", 0),
    )


def _unix_time(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp()) if stamp else 0
