"""``kill -9`` of the daemon at random moments of the demo: the same result, no orphan, no partial blob used."""

import contextlib
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from slm_operator.local.leftovers import read_records
from slm_operator.local.paths import LocalPaths
from tests.support.backend import Backend, local_backend, until, write_figures
from tests.support.hub import Hub
from tests.support.trained import copy_trained_model

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("slmmodel", "quantjob", "inferenceservice")
KILLS_PER_RUN = 5
SPAN_SECONDS = 18.0
"""About as long as the demo takes once the model is trained: kills fall anywhere in it."""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of repositories with the demo's model in it."""
    root = tmp_path_factory.mktemp("hub")
    copy_trained_model(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the demo comes to when nobody kills anything."""
    with Hub(repositories) as hub, local_backend(tmp_path_factory.mktemp("calm"), hub.endpoint) as backend:
        backend.slm("apply", "-k", str(ROOT / "examples" / "demo"))
        return outcome(backend)


def outcome(backend: Backend) -> dict[str, Any]:
    """The result without its speeds, which differ from run to run."""
    model, job, service = (backend.wait_ready(kind, "demo")["status"] for kind in KINDS)
    rows = [
        {name: row.get(name) for name in ("type", "digest", "blob", "sizeBytes", "perplexity", "klDivergence", "gate")}
        for row in job["variants"]
    ]
    return {
        "model": (model["revision"], model["digest"]),
        "variants": rows,
        "selected": job["selected"],
        "served": service["digest"],
    }


def disturb(folder: Path, hub: Hub, seed: int) -> dict[str, Any]:
    """One demo whose daemon is killed at random moments and started again."""
    chance = random.Random(seed)  # noqa: S311 - moments, no secrets
    moments = sorted(chance.uniform(0, SPAN_SECONDS) for _ in range(KILLS_PER_RUN))
    with local_backend(folder, hub.endpoint, gateway=True, namespace="kills") as backend:
        backend.slm("apply", "-k", str(ROOT / "examples" / "demo"))
        began = time.monotonic()
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            backend.kill_daemon()
            backend.slm("up")
        found = outcome(backend)
        assert backend.damaged_blobs() == []
        until(lambda: not backend.step_processes("evaluate"), "a step outlives its Job")
        until(lambda: not orphans(backend), f"processes that nobody records: {orphans(backend)}")
        commands = [words for _, words in backend.commands()]
        assert len([each for each in commands if is_engine(each)]) == 1, commands
    return found


def is_engine(command: list[str]) -> bool:
    """Whether a command line is an engine's own, run by itself or by the loader; the shell around it names it too."""
    return Path(command[0]).name != "sh" and "llama-server" in {Path(word).name for word in command}


def orphans(backend: Backend) -> list[list[str]]:
    """Command lines of what is neither daemon nor gateway nor recorded, which `slm down` has to search for."""
    known = {backend.daemon().pid, backend.gateway().pid}
    for record in read_records(LocalPaths(backend.folder / "state", backend.folder / "data", backend.folder)):
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(record.pid)
            known |= {process.pid for process in (leader, *leader.children(recursive=True))}
    return [words for process, words in backend.commands() if process.pid not in known]


def check_kills(runs: int, repositories: Path, undisturbed: dict[str, Any], folder: Path) -> None:
    seeds = [random.SystemRandom().randrange(1 << 30) for _ in range(runs)]
    for seed in seeds:
        with Hub(repositories) as hub:
            assert disturb(folder / str(seed), hub, seed) == undisturbed, f"seed {seed}"
        shutil.rmtree(folder / str(seed))
    write_figures("daemon_kills", {"runs": runs, "kills": runs * KILLS_PER_RUN, "seeds": seeds, "sameResult": True})


def test_the_demo_survives_kills_of_its_daemon(repositories: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    check_kills(1, repositories, undisturbed, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("SLM_SOAK"), reason="fifty kills take eight minutes: make soak")
def test_the_demo_survives_fifty_kills_of_its_daemon(
    repositories: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    check_kills(10, repositories, undisturbed, tmp_path)


def test_the_manifests_are_the_demos(undisturbed: dict[str, Any]) -> None:
    job = yaml.safe_load((ROOT / "examples" / "demo" / "quantjob.yaml").read_text())
    assert [row["type"] for row in undisturbed["variants"]] == job["spec"]["variants"]
