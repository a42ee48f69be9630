import asyncio
import os
import subprocess
from pathlib import Path

import psutil

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.ports import ObjectKey
from tests.local.cli_support import is_gone
from tests.local.kubelet_support import daemon_argv, finished, job, kubelet, until, until_true

KEY = ObjectKey("Job", "default", "work")


async def pods(cluster: SqliteCluster) -> list[tuple[str, str]]:
    found = await cluster.list("Pod")
    return [(each["metadata"]["name"], each["status"]["phase"]) for each in found]


async def test_a_job_succeeds_and_reports_message_and_progress(tmp_path: Path) -> None:
    script = """echo '{"step":"x","done":1}'; printf answer > "$SLM_TERMINATION_LOG" """
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", script))
        done = await until(cluster, KEY, finished)
        assert done["status"]["succeeded"] == 1
        assert done["status"]["conditions"][0]["type"] == "Complete"
        assert done["status"]["conditions"][0]["message"] == "The job succeeded."
        pod = await cluster.get(ObjectKey("Pod", "default", "work-1"))
        assert pod is not None
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"], state["message"]) == (0, "Completed", "answer")
        assert pod["status"]["progress"] == {"step": "x", "done": 1}
        assert pod["metadata"]["labels"] == {"app": "work", "job-name": "work"}


async def test_a_failed_attempt_is_tried_again(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", f"test -e {marker} && exit 0; touch {marker}; exit 75"))
        done = await until(cluster, KEY, finished)
        assert (done["status"]["succeeded"], done["status"]["failed"]) == (1, 1)
        assert await pods(cluster) == [("work-1", "Failed"), ("work-2", "Succeeded")]


async def test_bad_input_fails_at_once_with_its_message(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", 'echo "bad text" > "$SLM_TERMINATION_LOG"; exit 65'))
        done = await until(cluster, KEY, finished)
        condition = done["status"]["conditions"][0]
        assert (condition["type"], condition["reason"]) == ("Failed", "PodFailurePolicy")
        assert condition["message"] == "Pod work-1 failed with exit code 65, which matches FailJob rule 0."
        pod = await cluster.get(ObjectKey("Pod", "default", "work-1"))
        assert pod is not None
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "bad text\n"


async def test_the_backoff_limit_ends_a_job(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", "exit 1", backoffLimit=1))
        done = await until(cluster, KEY, finished)
        condition = done["status"]["conditions"][0]
        assert (condition["reason"], done["status"]["failed"]) == ("BackoffLimitExceeded", 2)
        assert condition["message"] == "Job has reached the specified backoff limit."


async def test_the_deadline_ends_a_job_and_its_process(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", "echo $$ > pid; exec sleep 60", activeDeadlineSeconds=1))
        pod = await until(cluster, ObjectKey("Pod", "default", "work-1"), lambda status: status.get("processId"))
        done = await until(cluster, KEY, finished)
        condition = done["status"]["conditions"][0]
        assert condition["reason"] == "DeadlineExceeded"
        assert condition["message"] == "Job was active longer than its deadline of 1 s."
        await until_true(lambda: not psutil.pid_exists(pod["status"]["processId"]))


async def test_a_program_that_is_missing_says_so(tmp_path: Path) -> None:
    manifest = job("work", "", backoffLimit=0)
    manifest["spec"]["template"]["spec"]["containers"][0]["command"] = ["no-such-program"]
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(manifest)
        await until(cluster, KEY, finished)
        pod = await cluster.get(ObjectKey("Pod", "default", "work-1"))
        assert pod is not None
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["reason"], state["exitCode"]) == ("StartError", 128)
        assert state["message"] == "The program no-such-program was not found or may not be executed."


async def test_deletion_kills_the_whole_process_group(tmp_path: Path) -> None:
    script = f"sleep 61 & echo $! > {tmp_path}/child; wait"
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", script))
        await until_true(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
        child = int((tmp_path / "child").read_text())
        assert psutil.pid_exists(child)
        await cluster.delete(KEY)
        await until_true(lambda: is_gone(child))


async def test_suspending_ends_the_attempt_and_resuming_starts_another(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", "sleep 60"))
        await until(cluster, ObjectKey("Pod", "default", "work-1"), lambda status: status.get("processId"))
        await cluster.apply(job("work", "sleep 60", suspend=True))
        held = await until(cluster, KEY, lambda status: status.get("conditions"))
        assert held["status"]["conditions"][0]["reason"] == "JobSuspended"
        assert await pods(cluster) == []
        await cluster.apply(job("work", "true"))
        done = await until(cluster, KEY, finished)
        assert done["status"]["conditions"][0]["type"] == "Complete"


async def test_a_finished_job_goes_after_its_time(tmp_path: Path) -> None:
    async with kubelet(tmp_path) as cluster:
        await cluster.apply(job("work", "true", ttlSecondsAfterFinished=0))
        while await cluster.get(KEY):
            await asyncio.sleep(0.02)
        assert await cluster.list("Pod") == []


async def test_a_killed_daemon_leaves_the_job_running_and_the_next_one_completes_it_once(tmp_path: Path) -> None:
    cluster = SqliteCluster(tmp_path / "slm.sqlite")
    runs, go = tmp_path / "runs", tmp_path / "go"
    script = f'echo run >> {runs}; until test -e {go}; do sleep 0.05; done; printf ok > "$SLM_TERMINATION_LOG"; exit 0'
    await cluster.apply(job("work", script))
    daemon = await asyncio.create_subprocess_exec(*daemon_argv(tmp_path))
    pod_key = ObjectKey("Pod", "default", "work-1")
    before = await until(cluster, pod_key, lambda status: status.get("phase") == "Running")
    await until_true(runs.exists)
    daemon.kill()
    await daemon.wait()
    pid = before["status"]["processId"]
    assert psutil.pid_exists(pid)
    go.touch()
    await until_true(lambda: is_gone(pid))
    async with kubelet(tmp_path):
        done = await until(cluster, KEY, finished)
    assert (done["status"]["succeeded"], done["status"]["failed"]) == (1, 0)
    assert await pods(cluster) == [("work-1", "Succeeded")]
    assert runs.read_text() == "run\n"


async def test_a_running_job_is_adopted_and_its_exit_code_known(tmp_path: Path) -> None:
    cluster = SqliteCluster(tmp_path / "slm.sqlite")
    go = tmp_path / "go"
    await cluster.apply(job("work", f"until test -e {go}; do sleep 0.05; done; exit 65"))
    daemon = await asyncio.create_subprocess_exec(*daemon_argv(tmp_path))
    before = await until(cluster, ObjectKey("Pod", "default", "work-1"), lambda status: status.get("processId"))
    daemon.kill()
    await daemon.wait()
    async with kubelet(tmp_path):
        await asyncio.sleep(0.3)
        after = await cluster.get(ObjectKey("Pod", "default", "work-1"))
        assert after is not None
        assert after["status"]["processId"] == before["status"]["processId"]
        go.touch()
        done = await until(cluster, KEY, finished)
    assert done["status"]["conditions"][0]["reason"] == "PodFailurePolicy"
    assert "exit code 65" in done["status"]["conditions"][0]["message"]


async def test_marked_processes_that_nobody_recorded_are_killed(tmp_path: Path) -> None:
    env = {**os.environ, "SLM_STATE_DIR": str(tmp_path.resolve())}  # noqa: ASYNC240
    stray = subprocess.Popen(["sleep", "60"], env={**env, "SLM_POD_UID": "unknown"})  # noqa: ASYNC220
    shell = subprocess.Popen(["sleep", "60"], env=env)  # noqa: ASYNC220
    try:
        async with kubelet(tmp_path):
            await until_true(lambda: stray.poll() is not None)
            assert shell.poll() is None
    finally:
        stray.kill()
        shell.kill()
        stray.wait()
        shell.wait()
