"""``slm run``, ``pull`` and ``stop``: from a model's name to answers."""

import asyncio
import sys
from typing import Annotated

import typer

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.chat import Chat, converse, print_answer
from slm_operator.cli.command import Command, at_least
from slm_operator.cli.completing import complete_service, complete_variant
from slm_operator.cli.exits import EPILOG, CommandFailed
from slm_operator.cli.placing import (
    DEFAULT_VARIANT,
    Placement,
    build_stopped,
    place_model,
    place_service,
    write_placement,
)
from slm_operator.cli.progress import await_ready
from slm_operator.cli.retracting import retract
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
from slm_operator.local.faults import forget_faults
from slm_operator.ports import ObjectKey

app = typer.Typer()
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="Longest wait, such as 30m or 2h.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="owner/name, owner/name@revision, a path, or an SLMModel's name.")
]


@app.command(cls=Command, epilog=EPILOG)
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
            placement = await place_model(cluster, model, namespace_of(namespace))
            await _bring_up(cluster, placement, seconds)
            key = placement.keys[-1]
            ready = condition_of(await require(cluster, key), "Ready")
            terminal.say(f"{display_name(key)} is ready: {ready.get('message', '')}")

    asyncio.run(work())


@app.command(cls=Command, epilog=EPILOG)
def run(
    model: Model,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Question; without one, a conversation.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help=f"Quantization type to serve; none serves as is. Default: {DEFAULT_VARIANT}.",
            autocompletion=complete_variant,
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the InferenceService. Default: the model's.")] = "",
    max_tokens: Annotated[
        int, typer.Option(metavar="TOKENS", callback=at_least(1), help="Longest answer, tokens.")
    ] = 512,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", callback=at_least(0), help="Randomness; 0 always answers the same."),
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System message.")] = "",
    namespace: Namespace = "",
    timeout: Timeout = "6h",
    _quiet: Quiet = False,
) -> None:
    """Fetch, quantize and serve a model, then chat with it.

    Makes an SLMModel, a QuantJob and an InferenceService with names from the model's; what exists is used
    as it is, and started if it is stopped. Another --variant changes a service that `slm run` made; a service
    that a manifest made is never changed. Without PROMPT, a terminal opens a conversation and anything else
    prints the address.

    Examples:
      slm run Qwen/Qwen3-0.6B "Why is the sky blue?"
      slm run ./my-model --variant Q8_0 --name my-model-large
      echo "Say hello." | slm run qwen3-0.6b

    """
    seconds = parse_duration(timeout)
    url, served = asyncio.run(_serve(model, variant, name, namespace_of(namespace), seconds))
    messages = [{"role": "system", "content": system}] if system else []
    chat = Chat(url, served, max_tokens, temperature, messages)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt:
        print_answer(chat, prompt)
    elif sys.stdin.isatty():
        converse(chat)
    else:
        terminal.result(f"{url}/v1")


async def _serve(model: str, variant: str | None, name: str, namespace: str, timeout_seconds: float) -> tuple[str, str]:
    """Bring up what serves the model, and return the service's address and name."""
    async with open_cluster() as cluster:
        models = await place_model(cluster, model, namespace)
        placement = models + await place_service(cluster, models.keys[0], variant, name or models.keys[0].name)
        await _bring_up(cluster, placement, timeout_seconds)
        service = await require(cluster, placement.keys[-1])
        return str(service["status"]["url"]), placement.keys[-1].name


async def _bring_up(cluster: SqliteCluster, placement: Placement, timeout_seconds: float) -> None:
    """Write what is missing and wait until the last object is Ready."""
    # The daemon first: when it may not or cannot be started, nothing is left behind.
    ensure_daemon()
    new = [key for key in placement.keys if not await cluster.get(key)]
    await write_placement(cluster, placement)
    for key in placement.keys:
        await forget_faults(cluster, key)
    try:
        await await_ready(cluster, placement.keys, timeout_seconds)
    except CommandFailed as error:
        raise await retract(cluster, error, placement.keys[0], new) from error


@app.command(cls=Command, epilog=EPILOG)
def stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="InferenceService.", autocompletion=complete_service)],
    namespace: Namespace = "",
    _quiet: Quiet = False,
) -> None:
    """Stop the engines of a service; it keeps its place and its address.

    `slm run` with its model, or an apply with replicas above 0, starts as many again.

    Examples:
      slm stop qwen3-0.6b

    """

    async def work() -> None:
        async with open_cluster() as cluster:
            key = ObjectKey("InferenceService", namespace_of(namespace), name.rpartition("/")[2])
            found = await require(cluster, key)
            await cluster.apply(build_stopped(found))
            terminal.say(f"{display_name(key)} scaled to 0")

    asyncio.run(work())
    hint_without_daemon()
