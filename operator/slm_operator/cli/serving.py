"""``slm run``, ``pull`` and ``stop``: from a model's name to answers."""

import asyncio
import sys
from typing import Annotated

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.chat import Chat, converse, print_answer
from slm_operator.cli.completing import complete_service
from slm_operator.cli.documents import Document
from slm_operator.cli.exits import EPILOG, CommandFailed
from slm_operator.cli.identity import identity_of
from slm_operator.cli.naming import ModelRequest, build_model, build_quant_job, build_service, derive_name, parse_model
from slm_operator.cli.progress import await_ready
from slm_operator.cli.session import (
    Namespace,
    condition_of,
    display_name,
    ensure_daemon,
    hint_without_daemon,
    namespace_of,
    open_cluster,
    require,
)
from slm_operator.cli.terminal import Quiet, terminal
from slm_operator.cli.waiting import parse_duration
from slm_operator.cli.writing import merge
from slm_operator.local.faults import forget_faults
from slm_operator.ports import Manifest, ObjectKey

app = typer.Typer()
Timeout = Annotated[str, typer.Option(help="Longest wait, such as 30m or 2h.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="owner/name[@revision], a path, or an SLMModel's name.")]


async def apply_manifest(cluster: SqliteCluster, manifest: Manifest) -> ObjectKey:
    """Create or update one object."""
    document = Document("", manifest)
    await cluster.apply(merge(await cluster.get(document.key), document))
    return document.key


async def place_model(cluster: SqliteCluster, text: str, namespace: str) -> ObjectKey:
    """The SLMModel that MODEL means: one of that name, one of that source, or a new one."""
    key = ObjectKey("SLMModel", namespace, text)
    if "/" not in text and await cluster.get(key):
        return key
    request = parse_model(text)
    name = await _free_name(cluster, request, namespace)
    key = ObjectKey("SLMModel", namespace, name)
    return (
        key if await cluster.get(key) else await apply_manifest(cluster, build_model(name, namespace, request.source))
    )


async def _free_name(cluster: SqliteCluster, request: ModelRequest, namespace: str) -> str:
    """The first name that is free or already means this source."""
    for name in request.names:
        found = await cluster.get(ObjectKey("SLMModel", namespace, name))
        if found is None or identity_of(found) == identity_of(build_model(name, namespace, request.source)):
            return name
    names = " and ".join(request.names)
    raise CommandFailed(
        f"The names {names} are taken by models from other sources: apply a manifest with its own name."
    )


@app.command(epilog=EPILOG)
def pull(
    model: Model,
    namespace: Namespace = "",
    timeout: Timeout = "6h",
    _quiet: Quiet = False,
) -> None:
    """Fetch and verify a model into the store.

    Examples:
      slm pull Qwen/Qwen3-0.6B
      slm pull HuggingFaceTB/SmolLM2-135M-Instruct@main
      slm pull ./my-model

    """
    seconds = parse_duration(timeout)

    async def work() -> None:
        async with open_cluster() as cluster:
            key = await place_model(cluster, model, namespace_of(namespace))
            await forget_faults(cluster, key)
            ensure_daemon()
            await await_ready(cluster, [key], seconds)
            ready = condition_of(await require(cluster, key), "Ready")
            terminal.say(f"{display_name(key)} is ready: {ready.get('message', '')}")

    asyncio.run(work())


async def place_service(cluster: SqliteCluster, model: ObjectKey, variant: str) -> list[ObjectKey]:
    """Objects that serve a model: a QuantJob unless ``variant`` is none, and an InferenceService last."""
    name, namespace = model.name, model.namespace
    if variant.lower() == "none":
        reference: Manifest = {"modelRef": {"name": name}}
        return [await apply_manifest(cluster, build_service(name, namespace, reference))]
    job = f"{name[: 51 - len(variant)]}-{derive_name(variant)}"
    reference = {"quantJobRef": {"name": job, "variant": variant}}
    quantized = await apply_manifest(cluster, build_quant_job(job, namespace, name, variant))
    return [quantized, await apply_manifest(cluster, build_service(name, namespace, reference))]


@app.command(epilog=EPILOG)
def run(
    model: Model,
    prompt: Annotated[
        str | None, typer.Argument(help="Question; without one, a conversation.", show_default=False)
    ] = None,
    variant: Annotated[str, typer.Option(help="Quantization type to make and serve; none serves as is.")] = "Q4_K_M",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, tokens.")] = 512,
    temperature: Annotated[float | None, typer.Option(min=0, help="Randomness; 0 always answers the same.")] = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    namespace: Namespace = "",
    timeout: Timeout = "6h",
    _quiet: Quiet = False,
) -> None:
    """Fetch, quantize and serve a model, then chat with it.

    Makes an SLMModel, a QuantJob and an InferenceService with names from the model's; what exists is used
    as it is. Without PROMPT, a terminal opens a conversation and anything else prints the address.

    Examples:
      slm run Qwen/Qwen3-0.6B "Why is the sky blue?"
      slm run ./my-model --variant Q8_0
      echo "Say hello." | slm run qwen3-0.6b

    """
    seconds = parse_duration(timeout)
    url, name = asyncio.run(_serve(model, variant, namespace_of(namespace), seconds))
    messages = [{"role": "system", "content": system}] if system else []
    chat = Chat(url, name, max_tokens, temperature, messages)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt:
        print_answer(chat, prompt)
    elif sys.stdin.isatty():
        converse(chat)
    else:
        terminal.result(f"{url}/v1")


async def _serve(model: str, variant: str, namespace: str, timeout_seconds: float) -> tuple[str, str]:
    """Apply, wait until all are Ready, and return the service's address and name."""
    async with open_cluster() as cluster:
        key = await place_model(cluster, model, namespace)
        keys = [key, *await place_service(cluster, key, variant)]
        for each in keys:
            await forget_faults(cluster, each)
        ensure_daemon()
        await await_ready(cluster, keys, timeout_seconds)
        service = await require(cluster, keys[-1])
        return str(service["status"]["url"]), keys[-1].name


@app.command(epilog=EPILOG)
def stop(
    name: Annotated[str, typer.Argument(help="InferenceService.", autocompletion=complete_service)],
    namespace: Namespace = "",
    _quiet: Quiet = False,
) -> None:
    """Stop the engines of a service; it keeps its place and its address.

    `slm run` with its model, or an apply with replicas above 0, starts it again.

    Examples:
      slm stop qwen3-0.6b

    """

    async def work() -> None:
        async with open_cluster() as cluster:
            key = ObjectKey("InferenceService", namespace_of(namespace), name.rpartition("/")[2])
            found = await require(cluster, key)
            await cluster.apply({**found, "spec": {**found["spec"], "replicas": 0}})
            terminal.say(f"{display_name(key)} scaled to 0")

    asyncio.run(work())
    hint_without_daemon()
