"""`make demo`: a model in, measured variants out, a chat answer, all driven by examples/demo/.

The model is trained here in seconds and offered by a hub on loopback, because the demo must work with no
internet; DEMO_MODEL=owner/name takes one from the hub that HF_ENDPOINT names instead.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from dev.demo import stage
from dev.demo.stage import BUILD, OWN_MODEL, DemoFailed, Timings, console, say


def slm(*arguments: str) -> str:
    """Run the slm command; raises DemoFailed with what it said."""
    command = [sys.executable, "-m", "slm_operator.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"slm {' '.join(arguments)} exited with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def get(kind: str) -> dict[str, Any]:
    """The demo's object of a kind."""
    document: dict[str, Any] = json.loads(slm("get", kind, "demo", "-o", "json"))
    return document


def prepare_environment(endpoint: str) -> None:
    """Keep the demo's objects and store apart from the user's own; the engine's cache is shared."""
    os.environ["SLM_STATE_HOME"] = str(BUILD / "state")
    os.environ["SLM_DATA_HOME"] = str(BUILD / "data")
    os.environ["HF_ENDPOINT"] = endpoint
    os.environ.setdefault("SLM_GATEWAY_PORT", "0")
    os.environ.setdefault("SLM_ALLOW_PRIVATE_HOSTS", urlsplit(endpoint).hostname or "")


def save_report(job_status: dict[str, Any]) -> Path:
    """Copy the report out of the store, under a name a browser opens."""
    source = BUILD / "data" / "store" / "blobs" / "sha256" / job_status["reportHtml"].removeprefix("sha256:")
    target = BUILD / "report.html"
    shutil.copyfile(source, target)
    return target


def run(*, stop: bool) -> None:
    """The demo from end to end."""
    timings = Timings()
    repo = os.environ.get("DEMO_MODEL") or OWN_MODEL
    BUILD.mkdir(parents=True, exist_ok=True)
    hub, endpoint = None, os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if repo == OWN_MODEL:
        stage.train_model(BUILD / "hub")
        timings.mark("train")
        hub, endpoint = stage.start_hub(BUILD / "hub")
    try:
        prepare_environment(endpoint)
        finish(repo, endpoint, timings)
        if not stop:
            folders = " ".join(f"{name}={os.environ[name]}" for name in ("SLM_STATE_HOME", "SLM_DATA_HOME"))
            say(f"Look around: {folders} {Path(sys.executable).parent / 'slm'} describe qj demo")
            say("The service stays up; stop it with: make demo-down")
    finally:
        if stop:
            slm("down")
        if hub is not None:
            hub.terminate()
            hub.wait()


def finish(repo: str, endpoint: str, timings: Timings) -> None:
    """Everything after the hub is up."""
    say("Finding llama.cpp (installed into the cache folder when there is none)")
    subprocess.run([sys.executable, "-m", "slm_pipelines.tools.llama_cpp"], check=True)
    timings.mark("engine")
    say(f"Hub at {endpoint}; starting the local backend and applying examples/demo")
    slm("up")
    console.print(slm("apply", "-f", str(stage.write_manifests(repo))), end="")
    stage.watch_progress(get)
    timings.mark("reconcile")
    answer = stage.ask(get("InferenceService")["status"]["url"])
    timings.mark("chat")
    result = stage.collect_result(get, repo, answer, timings.seconds)
    stage.tell_result(result, save_report(get("QuantJob")["status"]))


def main() -> int:
    """Parse arguments, run, say what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stop", action="store_true", help="stop the service and the daemon at the end")
    parser.add_argument("--down", action="store_true", help="only stop what an earlier demo left running")
    args = parser.parse_args()
    try:
        if args.down:
            prepare_environment(os.environ.get("HF_ENDPOINT", "http://127.0.0.1"))
            console.print(slm("down"), end="", highlight=False, markup=False)
        else:
            run(stop=args.stop)
    except (DemoFailed, subprocess.CalledProcessError, httpx.HTTPError) as error:
        console.print(f"[bold red]The demo failed:[/] {error}", highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
