"""``slm gc``: remove from the store what no object refers to."""

import asyncio
import contextlib
import subprocess
import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from slm_contract.results import CollectResult, Outcome
from slm_contract.specs import CollectSpec
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.command import Command
from slm_operator.cli.exits import EPILOG, CommandFailed
from slm_operator.cli.session import local_paths
from slm_operator.cli.terminal import terminal
from slm_operator.core.quantity import format_bytes
from slm_operator.core.roots import KEEPING_KINDS, find_roots, has_ended
from slm_operator.local.sharing import find_others
from slm_operator.ports import Manifest

app = typer.Typer()


def find_running_jobs(objects: list[Manifest]) -> list[str]:
    """Names of Jobs that have not ended: what they write is not mentioned by any object yet."""
    jobs = [item for item in objects if item["kind"] == "Job"]
    return [job["metadata"]["name"] for job in jobs if not has_ended(job)]


@app.command(cls=Command, epilog=EPILOG)
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove from the store what no object refers to.

    Objects of other state folders that share the store count, too.

    Examples:
      slm gc --dry-run
      slm delete -f old.yaml && slm gc

    """

    async def work() -> list[Manifest]:
        objects: list[Manifest] = []
        for database in (local_paths().database, *find_others(local_paths())):
            with contextlib.closing(SqliteCluster(database)) as cluster:
                objects += [item for kind in KEEPING_KINDS for item in await cluster.list(kind)]
        return objects

    objects = asyncio.run(work())
    if jobs := find_running_jobs(objects):
        raise CommandFailed(f"Jobs are running and may be writing: {', '.join(jobs)}. Wait for them or delete them.")
    result = run_collect(CollectSpec(roots=find_roots(objects), store=str(local_paths().store), dry_run=dry_run))
    size, verb = format_bytes(result.removed_bytes), "would remove" if dry_run else "removed"
    blobs = "1 blob" if result.removed_blobs == 1 else f"{result.removed_blobs} blobs"
    terminal.result(f"{verb} {blobs} ({size}), kept {result.kept_blobs}")


def run_collect(spec: CollectSpec) -> CollectResult:
    """Run the pipelines' collect step in its own process; raises CommandFailed with its error."""
    command = [sys.executable, "-m", "slm_pipelines", "collect", "--spec", "-", "--result", "/dev/stderr"]
    done = subprocess.run(
        command, input=spec.model_dump_json(by_alias=True), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    try:
        outcome = Outcome.model_validate_json(lines[-1] if lines else "")
    except ValidationError as error:
        raise CommandFailed(f"The collection ended with exit code {done.returncode}: {done.stderr[-500:]}") from error
    if not isinstance(outcome.result, CollectResult):
        raise CommandFailed(outcome.error.message if outcome.error else "The collection left no result.")
    return outcome.result
