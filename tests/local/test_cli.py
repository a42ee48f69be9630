"""The `slm` command as a person runs it: real commands, a real daemon, real processes, folders of its own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from slm_operator.ports import EventRecord, ObjectKey
from tests.local.cli_support import Slm, daemon_pid, has_ended, make_slm, model, slm
from tests.support.engine import engine, write_model

__all__ = ["engine", "slm"]
ROOT = Path(__file__).resolve().parents[2]
DEMO = str(ROOT / "examples" / "demo")


def write_status(slm: Slm, name: str, condition: str, status: str, message: str = "") -> None:
    """What a reconcile would write."""

    async def work() -> None:
        cluster = slm.cluster()
        key = ObjectKey("SLMModel", "default", name)
        entry = {"type": condition, "status": status, "reason": "Tested", "message": message, "observedGeneration": 1}
        await cluster.update_status(key, {"conditions": [entry]})
        await cluster.record(EventRecord(key, "Warning", "Tested", message))
        cluster.close()

    asyncio.run(work())


def test_up_starts_one_daemon_however_often_and_down_ends_it(slm: Slm) -> None:
    assert "not running (start it with slm up)" in slm("status").stdout
    assert slm("status").returncode == 5
    with ThreadPoolExecutor(3) as pool:
        outputs = list(pool.map(lambda _: slm("up"), range(3)))
    assert [done.returncode for done in outputs] == [0, 0, 0], outputs
    pid = daemon_pid(slm)
    assert all(str(pid) in done.stdout for done in outputs)
    assert f"running already (process {pid})" in slm.good("up")
    assert psutil.Process(pid).ppid() != os.getpid()
    assert f"running, process {pid}" in slm.good("status")
    assert "the daemon has stopped" in slm.good("down")
    assert has_ended(pid)
    assert "was not running" in slm.good("down")


def test_a_daemon_that_was_killed_leaves_nothing_to_mend(slm: Slm) -> None:
    slm.good("up")
    psutil.Process(daemon_pid(slm)).kill()
    assert has_ended(daemon_pid(slm))
    assert slm("status").returncode == 5
    assert "the daemon is running (process" in slm.good("up")


def test_a_daemon_that_cannot_start_says_why(slm: Slm) -> None:
    slm.state.mkdir(parents=True)
    (slm.state / "objects.db").write_text(
        "this is no database, and it is longer than a header of one hundred bytes" * 9
    )
    assert "The local database cannot be used" in slm.bad(1, "up")


def test_manifests_are_applied_from_files_folders_stdin_and_kustomizations(slm: Slm, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"{model('a')}---\n{model('b')}")
    assert slm.good("apply", "-f", str(folder)).splitlines() == [
        "slmmodel.slm.dev/a created",
        "slmmodel.slm.dev/b created",
    ]
    assert "a unchanged" in slm.good("apply", "-f", str(folder / "a.yaml"))
    assert "c created" in slm.good("apply", "-f", "-", stdin=model("c"))
    assert slm.good("apply", "-k", DEMO) == "".join(
        f"{kind}.slm.dev/demo created\n" for kind in ("slmmodel", "quantjob", "inferenceservice")
    )
    assert slm.good("apply", "-f", DEMO).count("unchanged") == 3
    assert "nothing happens yet: slm up" in slm("apply", "-f", DEMO).stderr


def test_one_bad_document_of_several_changes_nothing(slm: Slm, tmp_path: Path) -> None:
    file = tmp_path / "mixed.yaml"
    file.write_text(f"{model('good')}---\n{model('bad').replace('path: ', 'pth: ')}")
    message = slm.bad(65, "apply", "-f", str(file))
    assert f"error: {file} (document 2): " in message
    assert "nothing was changed" in message
    assert len(message.splitlines()) == 1
    assert slm.bad(3, "get", "slm", "good") == "error: slmmodel.slm.dev/good does not exist in namespace default.\n"
    assert "-f FILE" in slm.bad(2, "apply")
    assert "no object in standard input" in slm.bad(65, "apply", "-f", "-", stdin="# nothing\n")


def test_who_needs_what_was_deleted_is_told(slm: Slm) -> None:
    def using(kind: str, name: str, reference: str, more: str = "") -> str:
        spec = f"{{suspend: true, {reference}{more}}}"
        return f"apiVersion: slm.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"

    users = [
        using("QuantJob", "q", "modelRef: {name: a}", ", variants: [Q4_0]"),
        using("InferenceService", "s", "modelRef: {name: a}"),
        using("InferenceService", "of-a-variant", "quantJobRef: {name: q}"),
    ]
    slm.good("apply", "-f", "-", stdin="---\n".join([model("a"), *users]))
    told = slm("delete", "slm", "a").stderr.splitlines()
    assert told == [
        f"{user} needs slmmodel.slm.dev/a, and stays as it is until that is back"
        for user in ("quantjob.slm.dev/q", "inferenceservice.slm.dev/s")
    ]
    slm.good("apply", "-f", "-", stdin=model("a"))
    assert slm("delete", "slm/a", "qj/q", "slmsvc/s", "slmsvc/of-a-variant").stderr == ""


def test_a_source_cannot_be_exchanged(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    other = model("a").replace("/nowhere/a", "/elsewhere")
    message = slm.bad(65, "apply", "-f", "-", stdin=other)
    assert "standard input (document 1): spec.source is immutable: delete slmmodel.slm.dev/a" in message


def test_diff_shows_what_would_change_and_its_exit_code_tells(slm: Slm) -> None:
    text = (ROOT / "examples" / "demo" / "quantjob.yaml").read_text()
    new = slm("diff", "-f", "-", stdin=text)
    assert new.returncode == 1
    assert "+metadata:\n+  name: demo\n+  namespace: default\n" in new.stdout
    slm.good("apply", "-f", "-", stdin=text)
    assert slm.good("diff", "-f", "-", stdin=text) == ""
    changed = slm("diff", "-f", "-", stdin=text.replace("0.05", "0.1"))
    assert changed.returncode == 1
    assert "-    maxPerplexityIncrease: 0.05\n+    maxPerplexityIncrease: 0.1" in changed.stdout


def test_get_prints_tables_and_documents_that_apply_takes_back(slm: Slm) -> None:
    slm.good("apply", "-k", DEMO)
    slm.good("apply", "-n", "team", "-f", "-", stdin=model("other"))
    assert slm.good("get", "slm").splitlines()[0].split()[:3] == ["NAME", "READY", "REASON"]
    assert "REVISION" in slm.good("get", "slm", "-o", "wide").splitlines()[0]
    assert slm.good("get", "all", "-o", "name").split() == [
        f"{kind}.slm.dev/demo" for kind in ("slmmodel", "quantjob", "inferenceservice")
    ]
    everywhere = slm.good("get", "slm", "-A").splitlines()
    assert [line.split()[:2] for line in everywhere] == [["NAMESPACE", "NAME"], ["default", "demo"], ["team", "other"]]
    one: dict[str, Any] = json.loads(slm.good("get", "slm", "demo", "-o", "json"))
    assert list(one)[:4] == ["apiVersion", "kind", "metadata", "spec"]
    several = slm.good("get", "slm,qj", "-o", "yaml")
    assert [item["kind"] for item in yaml.safe_load(several)["items"]] == ["SLMModel", "QuantJob"]
    assert "There is no kind 'nope'; the kinds are slmmodels (slm)" in slm.bad(2, "get", "nope")


def test_what_get_printed_can_be_applied_again(slm: Slm) -> None:
    slm.good("apply", "-k", DEMO)
    assert slm.good("apply", "-f", "-", stdin=slm.good("get", "all", "-o", "yaml")).count("unchanged") == 3


def test_describe_and_events_say_why_an_object_is_as_it_is(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    write_status(slm, "a", "Ready", "False", "the figure is wrong")
    text = slm.good("describe", "slm", "a")
    assert "Ready   False    Tested   the figure is wrong" in text
    assert "path: /nowhere/a" in text
    assert slm.good("events", "slm/a").splitlines()[1].split()[1:5] == ["Warning", "Tested", "slmmodel/a", "1"]
    assert "does not exist" in slm.bad(3, "events", "slm", "b")


def test_wait_starts_the_daemon_and_tells_why_it_waited_in_vain(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=model("a"))
    message = slm.bad(4, "wait", "--for=condition=Ready", "slm/a", "--timeout", "1s")
    assert "started the daemon" in message
    assert "Timed out waiting for condition Ready=True of slmmodel.slm.dev/a: Ready is False (Suspended)" in message
    assert slm.good("wait", "--for=condition=Ready=false", "slm/a") == "slmmodel.slm.dev/a condition met\n"
    assert "does not exist" in slm.bad(3, "wait", "--for=condition=Ready", "slm/b")
    assert "--for takes delete or condition=NAME" in slm.bad(2, "wait", "--for=ready", "slm/a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slm, "wait", "--for=delete", "slm/a", "--timeout", "30s")
        slm.good("delete", "slm", "a")
        assert waiting.result().stdout == "slmmodel.slm.dev/a deleted\n"


def test_absent_objects_do_not_spare_those_that_exist(slm: Slm) -> None:
    slm.good("apply", "-f", "-", stdin=f"{model('a')}---\n{model('b')}")
    done = slm("delete", "slm", "a", "gone", "b", "lost")
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["slmmodel.slm.dev/a deleted", "slmmodel.slm.dev/b deleted"]
    assert [line.split()[-7] for line in done.stderr.splitlines()] == ["slmmodel.slm.dev/gone", "slmmodel.slm.dev/lost"]
    assert slm.good("get", "slm", "-o", "name") == ""
    assert "a does not exist in namespace default." in slm.bad(3, "delete", "-f", "-", stdin=model("a"))
    slm.good("delete", "slm", "a", "gone", "--ignore-not-found")


def test_without_autostart_commands_say_what_to_run(tmp_path: Path) -> None:
    slm = make_slm(tmp_path, SLM_AUTOSTART="false")
    slm.good("apply", "-f", "-", stdin=model("a"))
    assert "run `slm up` first" in slm.bad(5, "wait", "--for=condition=Ready", "slm/a")
    assert "run `slm up` first" in slm.bad(5, "pull", str(tmp_path))
    broken = make_slm(tmp_path / "broken", SLM_START_SECONDS="soon")
    assert "SLM_START_SECONDS" in broken.bad(2, "status")


def test_run_leaves_nothing_behind_where_it_may_not_start_the_daemon(tmp_path: Path) -> None:
    slm = make_slm(tmp_path, SLM_AUTOSTART="false")
    file = write_model(tmp_path / "tiny.gguf")
    assert "run `slm up` first" in slm.bad(5, "run", str(file), "Hello")
    assert slm.good("get", "all", "-o", "name") == ""


def test_run_does_not_touch_the_service_of_a_manifest(slm: Slm) -> None:
    slm.good("apply", "-k", DEMO)
    before = slm.good("get", "all", "-o", "yaml")
    message = slm.bad(1, "run", "demo", "Hello", "--variant", "Q5_0")
    assert "inferenceservice.slm.dev/demo exists already and serves the chosen variant of quantjob" in message
    assert "slm delete slmsvc/demo, leave out --variant, or choose another name with --name.\n" in message
    assert slm.good("get", "all", "-o", "yaml") == before
    assert slm("status").returncode == 5


def test_a_refused_pull_leaves_nothing_that_later_calls_would_repeat(slm: Slm, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    message = slm.bad(1, "pull", str(folder))
    assert "slmmodel.slm.dev/pickled: UnsafeFormat: " in message
    assert message.endswith("Nothing was kept of it.\n")
    assert slm.good("get", "all", "-o", "name") == ""
    text = model("pickled").replace("suspend: true, ", "").replace("/nowhere/pickled", str(folder))
    slm.good("apply", "-f", "-", stdin=text)
    assert slm.bad(1, "pull", "pickled").endswith("Remove it with: slm delete slmmodel/pickled\n")
    assert slm.good("get", "slm", "-o", "name") == "slmmodel.slm.dev/pickled\n"


def test_shells_complete_commands_kinds_and_names(slm: Slm) -> None:
    slm.good("apply", "-k", DEMO)

    def complete(line: str) -> list[str]:
        words = {"_SLM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        command = [sys.executable, "-c", "from slm_operator.cli.main import main; main()"]
        environment = {**slm.environment, **words}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert complete("slm de") == ["delete", "describe"]
    assert complete("slm get slmm") == ["slmmodels"]
    assert complete("slm describe qj ") == ["demo"]
    assert complete("slm wait slm/") == ["slm/demo"]
    assert "--for" in complete("slm wait --")
    assert complete("slm wait slm/demo --for d") == ["delete"]
    assert complete("slm run demo --variant Q5_K") == ["Q5_K_S", "Q5_K_M"]


def test_doctor_names_what_is_missing_and_what_mends_it(tmp_path: Path) -> None:
    slm = make_slm(tmp_path, SLM_LLAMA_CPP=str(tmp_path))
    done = slm("doctor")
    assert done.returncode == 1
    assert f"FAIL  llama.cpp  SLM_LLAMA_CPP names {tmp_path}, which lacks llama-server" in done.stdout
    assert "not running; start it with: slm up" in done.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: Any) -> Iterator[Slm]:
    """A home in which one command brought a model file to an answer."""
    home = tmp_path_factory.mktemp("served")
    found = make_slm(home, SLM_LLAMA_CPP=str(engine.folder))
    path = write_model(home / "tiny.gguf")
    done = found("run", str(path), "Hello", "--variant", "none", "--max-tokens", "8", "--temperature", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert "slmmodel.slm.dev/tiny: Ready" in done.stderr
    yield found
    found("down")


def running(slm: Slm) -> list[list[str]]:
    return [line.split() for line in slm.good("ps").splitlines()[1:]]


def test_ps_shows_the_engine_with_process_port_memory_and_age(served: Slm) -> None:
    assert served.good("ps").splitlines()[0].split() == ["POD", "OWNER", "STEP", "PID", "PORT", "MEMORY", "AGE"]
    ((_, owner, step, pid, port, *_),) = running(served)
    assert (owner, step) == ("inferenceservice/tiny", "serve")
    listening = [child for child in psutil.Process(int(pid)).children(recursive=True) if child.net_connections()]
    assert any(each.laddr.port == int(port) for child in listening for each in child.net_connections())


def test_logs_print_follow_and_shorten(served: Slm) -> None:
    assert "listening" in served.good("logs", "slmsvc/tiny")
    assert len(served.good("logs", "slmsvc/tiny", "--tail", "2").splitlines()) == 2
    (pod, *_) = [name for name in served.good("get", "pods", "-o", "name").split() if "tiny-resolve" in name]
    assert served.good("logs", pod, "-f").startswith("resolve: ")
    assert served.good("logs", pod, "--raw").startswith('{"step":"resolve"')


def test_a_killed_daemon_finds_its_engine_again_and_the_address_stays(served: Slm) -> None:
    (before,) = running(served)
    url = json.loads(served.good("get", "slmsvc", "tiny", "-o", "json"))["status"]["url"]
    psutil.Process(daemon_pid(served)).kill()
    assert has_ended(daemon_pid(served))
    served.good("wait", "--for=condition=Ready", "slmsvc/tiny")
    assert running(served)[0][3] == before[3]
    assert json.loads(served.good("get", "slmsvc", "tiny", "-o", "json"))["status"]["url"] == url


def test_after_down_nothing_runs_and_no_service_claims_to_be_ready(served: Slm) -> None:
    pid = int(running(served)[0][3])
    served.good("down")
    assert has_ended(pid)
    assert served("get", "slmsvc").stdout.splitlines()[1].split()[1:3] == ["False", "Starting"]
    # Four tokens of random weights may well be blanks.
    answer = served.good("run", "tiny", "--variant", "none", "--max-tokens", "64", stdin="Hello again")
    assert answer.strip()


def test_a_stopped_service_keeps_its_address_and_run_wakes_it(served: Slm) -> None:
    url = json.loads(served.good("get", "slmsvc", "tiny", "-o", "json"))["status"]["url"]
    assert "scaled to 0" in served.good("stop", "tiny")
    deadline = time.monotonic() + 30
    while running(served) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(served) == []
    assert served.good("run", "tiny", "--variant", "none").strip() == f"{url}/v1"


def test_gc_removes_only_what_no_object_mentions(served: Slm) -> None:
    blobs = served.home / "data" / "slm-operator" / "store" / "blobs" / "sha256"
    kept = set(blobs.iterdir())
    stray = blobs / ("0" * 64)
    stray.write_bytes(b"nobody wants me")
    os.utime(stray, (0, 0))
    assert "would remove 1 blob " in served.good("gc", "--dry-run")
    assert stray.exists()
    assert "removed 1 blob " in served.good("gc")
    assert set(blobs.iterdir()) == kept


def test_everything_lies_in_the_xdg_folders(served: Slm) -> None:
    assert list((served.home / "user").iterdir()) == []
    assert {path.name for path in served.home.iterdir()} <= {"user", "state", "data", "cache", "config", "tiny.gguf"}
