"""The life of one local pod: start, watch, restart with back-off, report."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_operator.adapters import logs, probes, processes
from slm_operator.adapters.pod_status import build_pod_status, container_of, stamp, terminated
from slm_operator.adapters.process_table import ProcessRecord, ProcessTable
from slm_operator.core.quantity import format_bytes, parse_quantity
from slm_operator.errors import ClusterUnavailable, Conflict
from slm_operator.ports import Cluster, EventRecord, Manifest, ObjectKey

LOG = logging.getLogger(__name__)
TICK_SECONDS = 0.05
"""How often the end of a process is looked for: one system call each."""
PROGRESS_SECONDS = 1.0
HEALTHY_SECONDS = 60.0
"""A process that ran this long is not in a crash loop."""
MAX_CRASH_BACKOFF_SECONDS = 30.0
DEFAULT_GRACE_SECONDS = 30.0
MAX_MESSAGE_BYTES = 4096
"""Kubernetes' limit for a termination message."""
CANNOT_START = 128
"""Exit code that container runtimes report when the program could not be started."""
RETRY_SECONDS = 1.0
OUT_OF_MEMORY = "OOMKilled"
"""Kubernetes' reason for a container that went beyond its memory limit."""


@dataclass(frozen=True)
class Folders:
    """Where pods keep things."""

    state: Path
    logs: Path

    def pod(self, uid: str) -> Path:
        """Scratch folder of one pod."""
        return self.state / "pods" / uid


@dataclass(frozen=True)
class Ending:
    """Why a process was ended, or could not be started; empty when it ended by itself."""

    problem: str = ""
    reason: str = ""


class PodWorker:
    """Runs one pod until it is final; ``stop`` ends its process, cancelling ``run`` leaves the process alone."""

    def __init__(self, cluster: Cluster, table: ProcessTable, folders: Folders, pod: Manifest) -> None:
        meta = pod["metadata"]
        self.key = ObjectKey("Pod", meta["namespace"], meta["name"])
        self.uid: str = meta["uid"]
        self._cluster, self._table, self._folders, self._pod = cluster, table, folders, pod
        self._container = container_of(pod)
        self._status: Manifest = pod.get("status", {})
        self._written: Manifest = {}
        self._log = logs.log_path(folders.logs, self.key.namespace, self.key.name)
        self._ready = False
        self._handle: processes.Handle | None = None

    async def run(self) -> None:
        """Start or adopt the process and follow it."""
        record = self._table.get(self.uid)
        resumed = record is not None and self._resume(record)
        while True:
            ending = Ending()
            if record is None or not resumed:
                record, ending = self._start(record)
            resumed = False
            if self._handle is not None:
                ending = await self._follow(self._handle, record)
            if await self._finish(record, ending):
                return
            record = self._table.get(self.uid) or record
            await asyncio.sleep(_backoff(record))

    async def stop(self) -> None:
        """End the process with its grace period and forget it; the pod object is already gone."""
        if record := self._table.get(self.uid):
            handle = self._handle or processes.adopt(record)
            if handle is not None:
                await processes.end(handle, record)
            self._table.remove(self.uid)
        shutil.rmtree(self._folders.pod(self.uid), ignore_errors=True)

    def _resume(self, record: ProcessRecord) -> bool:
        """Adopt what an earlier daemon started; False when nothing of it was ever started."""
        self._handle = processes.adopt(record)
        if self._handle is None and (record.pid or self._exit_file(record).exists()):
            self._handle = processes.Handle(0)
        return self._handle is not None

    def _start(self, last: ProcessRecord | None) -> tuple[ProcessRecord, Ending]:
        record = self._next_record(last)
        self._handle = None
        with contextlib.suppress(FileNotFoundError):
            self._termination_file.unlink()
        self._folders.pod(self.uid).mkdir(parents=True, exist_ok=True)
        self._table.put(record)
        try:
            self._handle, created = processes.start(self._command(record))
        except OSError as error:
            return record, Ending(str(error), "StartError")
        record = dataclasses.replace(record, pid=self._handle.pid, created=created)
        self._table.put(record)
        return record, Ending()

    def _next_record(self, last: ProcessRecord | None) -> ProcessRecord:
        grace = self._pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        return ProcessRecord(
            pod_uid=self.uid,
            namespace=self.key.namespace,
            pod=self.key.name,
            # A record without a pid is a start that never happened: its number is used again.
            starts=last.starts + (1 if last.pid or last.crashes else 0) if last else 1,
            pid=0,
            created=0.0,
            port=_free_port() if self._container.get("ports") else 0,
            grace_seconds=float(grace),
            crashes=last.crashes if last else 0,
            started_at=stamp(),
        )

    def _command(self, record: ProcessRecord) -> processes.Command:
        own = {each["name"]: _value(each) for each in self._container.get("env", [])}
        if record.port:
            own["PORT"] = str(record.port)
        own |= {
            "SLM_TERMINATION_LOG": str(self._termination_file),
            processes.POD_UID: self.uid,
            processes.STATE_DIR: str(self._folders.state),
            processes.START: f"{self.uid}/{record.starts}",
        }
        words = [*self._container.get("command", []), *self._container.get("args", [])]
        cpus = self._container.get("resources", {}).get("limits", {}).get("cpu")
        folder = Path(self._container.get("workingDir") or self._folders.pod(self.uid))
        return processes.Command(
            argv=[expand(word, own) for word in words],
            env=processes.base_environment() | {name: expand(value, own) for name, value in own.items()},
            folder=folder,
            log=self._log,
            exit_file=self._exit_file(record),
            cpus=float(parse_quantity(str(cpus))) if cpus is not None else None,
        )

    async def _follow(self, handle: processes.Handle, record: ProcessRecord) -> Ending:
        """Watch until the process ended; returns why it was ended."""
        self._ready = False
        watcher = asyncio.create_task(probes.watch(self._container, record.port, self._set_ready))
        ending, looked = Ending(), 0.0
        try:
            while handle.running():
                if not ending.problem and watcher.done() and (problem := _failure(watcher)):
                    ending = Ending(problem)
                    await self._event("Unhealthy", f"{problem} The process is restarted.")
                    await processes.end(handle, record)
                if time.monotonic() - looked >= PROGRESS_SECONDS:
                    looked = time.monotonic()
                    self._read_progress()
                    ending = self._enforce_memory(handle) or ending
                await self._write({"running": {"startedAt": record.started_at}}, record, ready=self._ready)
                await asyncio.sleep(TICK_SECONDS)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        return ending

    def _enforce_memory(self, handle: processes.Handle) -> Ending | None:
        """Kill the process once it holds more memory than its limit; mapped weights, which can be dropped, are free."""
        limit = self._container.get("resources", {}).get("limits", {}).get("memory")
        if limit is None or (used := processes.private_bytes(handle.pid)) <= parse_quantity(str(limit)):
            return None
        processes.sweep(self.uid)
        problem = f"It held {format_bytes(used)} of memory, more than its limit of {limit}: raise the limit."
        return Ending(problem, OUT_OF_MEMORY)

    async def _finish(self, record: ProcessRecord, ending: Ending) -> bool:
        """Report the end; returns whether the pod is final."""
        code = self._handle.exit_code(self._exit_file(record)) if self._handle else CANNOT_START
        if code == 0:
            ending = Ending()  # It was done before we could end it.
        processes.sweep(self.uid)
        self._read_progress()
        message = ending.problem if ending.reason else self._message(code) or ending.problem
        state = terminated(code, message, record.started_at, ending.reason)
        policy = self._pod["spec"].get("restartPolicy", "Always")
        final = policy == "Never" or (policy == "OnFailure" and code == 0)
        await self._write({"terminated": state}, record, ready=False, phase=_final_phase(code) if final else "Running")
        if final:
            self._table.remove(self.uid)
            shutil.rmtree(self._folders.pod(self.uid), ignore_errors=True)
            return True
        age = time.time() - record.created if record.created else 0.0
        crashed = dataclasses.replace(record, crashes=1 if age > HEALTHY_SECONDS else record.crashes + 1)
        self._table.put(crashed)
        if delay := _backoff(crashed):
            text = f"back-off {delay:g} s restarting the process, which ended with exit code {code}"
            await self._write({"waiting": {"reason": "CrashLoopBackOff", "message": text}}, record, ready=False)
            await self._event("BackOff", f"{text}: {message.strip()[-200:]}")
        else:
            await self._event("Restarted", f"The process ended with exit code {code} and was started again at once.")
        return False

    def _message(self, code: int) -> str:
        with contextlib.suppress(OSError), self._termination_file.open("rb") as file:
            if message := file.read(MAX_MESSAGE_BYTES).decode(errors="replace"):
                return message
        fallback = self._container.get("terminationMessagePolicy") == "FallbackToLogsOnError" and code != 0
        return logs.tail(self._log, logs.FALLBACK_BYTES) if fallback else ""

    def _read_progress(self) -> None:
        if self._pod["spec"].get("restartPolicy") == "Never" and (progress := logs.latest_progress(self._log)):
            self._status = {**self._status, "progress": progress}

    def _set_ready(self, ready: bool) -> None:  # noqa: FBT001
        self._ready = ready

    async def _write(
        self, state: dict[str, Any], record: ProcessRecord, *, ready: bool, phase: str = "Running"
    ) -> None:
        """Write the status if it differs, again and again while the database cannot be reached."""
        name, restarts = self._container.get("name", "main"), record.starts - 1
        status = build_pod_status(self._status, name, state, ready=ready, restarts=restarts, phase=phase)
        status |= {"port": record.port} if record.port else {}
        status |= {"processId": record.pid}
        self._status = status
        while status != self._written:
            try:
                current = await self._cluster.get(self.key)
                if current and current["metadata"]["uid"] == self.uid and current.get("status") != status:
                    await self._cluster.update_status(self.key, status)
            except ClusterUnavailable as error:
                LOG.warning("status of %s: %s", self.key, error)
                await asyncio.sleep(RETRY_SECONDS)
            except Conflict:
                return
            else:
                self._written = status

    async def _event(self, reason: str, message: str) -> None:
        with contextlib.suppress(ClusterUnavailable):
            await self._cluster.record(EventRecord(self.key, "Warning", reason, message))

    def _exit_file(self, record: ProcessRecord) -> Path:
        return self._folders.pod(self.uid) / f"exit-{record.starts}"

    @property
    def _termination_file(self) -> Path:
        return self._folders.pod(self.uid) / "termination"


def expand(text: str, env: dict[str, str]) -> str:
    """Replace ``$(NAME)`` by the container's variable as Kubernetes does; ``$$(NAME)`` stays as ``$(NAME)``."""

    def value(match: re.Match[str]) -> str:
        return match[0][1:] if match[0].startswith("$$") else env.get(match[1], match[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", value, text)


def _value(variable: Manifest) -> str:
    """A variable's value; the daemon's environment stands in for Secrets, of which there are none here."""
    secret = variable.get("valueFrom", {}).get("secretKeyRef")
    return os.environ.get(secret["key"], "") if secret else str(variable.get("value", ""))


def _backoff(record: ProcessRecord) -> float:
    """Seconds before the next start: the first crash is healed at once, then 1, 2, 4 … 30."""
    return float(min(2.0 ** (record.crashes - 2), MAX_CRASH_BACKOFF_SECONDS)) if record.crashes > 1 else 0.0


def _final_phase(code: int) -> str:
    return "Succeeded" if code == 0 else "Failed"


def _failure(watcher: asyncio.Task[None]) -> str:
    error = watcher.exception()
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) if error else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
