"""Tables of the local backend's object database."""

import sqlite3
from pathlib import Path

BUSY_SECONDS = 5.0
"""How long a write waits for another process's write; each takes milliseconds."""
SCHEMA_VERSION = 1
"""Stored as ``user_version``; raised with every change of the tables."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT, namespace TEXT, name TEXT, uid TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, manifest TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name)
);
CREATE INDEX IF NOT EXISTS objects_by_version ON objects (version);
CREATE TABLE IF NOT EXISTS owners (owner TEXT, child TEXT, PRIMARY KEY (owner, child));
CREATE INDEX IF NOT EXISTS owners_by_child ON owners (child);
CREATE TABLE IF NOT EXISTS tombstones (
  kind TEXT, namespace TEXT, name TEXT, version INTEGER NOT NULL, PRIMARY KEY (kind, namespace, name)
);
CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 1), value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
CREATE TABLE IF NOT EXISTS events (
  namespace TEXT, kind TEXT, name TEXT, type TEXT, reason TEXT, message TEXT, count INTEGER, first TEXT, last TEXT,
  PRIMARY KEY (namespace, kind, name, type, reason, message)
);
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create the file, readable by its owner only; transactions are begun by hand."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if db.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
        db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    return db
