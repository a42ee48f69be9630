"""What the local backend has started, on disk before and after each start, so that a killed daemon finds it again."""

import dataclasses
import sqlite3
from dataclasses import dataclass
from pathlib import Path

SCHEMA = """CREATE TABLE IF NOT EXISTS processes (
  pod_uid TEXT PRIMARY KEY, namespace TEXT, pod TEXT, starts INTEGER, pid INTEGER, created REAL, port INTEGER,
  grace_seconds REAL, crashes INTEGER, started_at TEXT
)"""


@dataclass(frozen=True)
class ProcessRecord:
    """The latest start of one pod's process."""

    pod_uid: str
    namespace: str
    pod: str
    starts: int
    """Number of this start, from 1; a restart is a later number."""
    pid: int
    """Leader of the process group; 0 from just before the start until it is known."""
    created: float
    """When the operating system says the process began, seconds since 1970; 0 while ``pid`` is."""
    port: int
    """Port the process listens on; 0 when it has none."""
    grace_seconds: float
    """Time between SIGTERM and SIGKILL."""
    crashes: int
    """Ends in a row that came too soon; they set the back-off."""
    started_at: str
    """When the pod's process was started, ISO 8601."""


class ProcessTable:
    """A table of ProcessRecord, one per pod."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A power cut ends the processes too, so records need to survive only the daemon.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(SCHEMA)

    def put(self, record: ProcessRecord) -> None:
        """Insert or replace the pod's record."""
        values = dataclasses.astuple(record)
        self._db.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def get(self, pod_uid: str) -> ProcessRecord | None:
        """The pod's record, or None."""
        row = self._db.execute("SELECT * FROM processes WHERE pod_uid = ?", (pod_uid,)).fetchone()
        return ProcessRecord(*row) if row else None

    def all(self) -> list[ProcessRecord]:
        """Every record."""
        return [ProcessRecord(*row) for row in self._db.execute("SELECT * FROM processes").fetchall()]

    def remove(self, pod_uid: str) -> None:
        """Forget the pod."""
        self._db.execute("DELETE FROM processes WHERE pod_uid = ?", (pod_uid,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
