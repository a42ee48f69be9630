"""The objects of the local backend, in one SQLite file that the daemon and the command line share.

``resourceVersion`` comes from one counter that grows with every write, deletions included. Whoever watches asks for
what lies above the last number it saw, so a write of another process is seen like one's own.
"""

import asyncio
import contextlib
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from slm_operator.adapters.sqlite_schema import open_database
from slm_operator.core.manifests.metadata import controller_of, describe_controller
from slm_operator.core.plan import key_of
from slm_operator.errors import ClusterUnavailable, Conflict, NameTaken
from slm_operator.ports import EventRecord, Manifest, ObjectKey

POLL_SECONDS = 0.1
"""How often a watcher looks for writes of other processes: below what a person notices, and only a PRAGMA."""
EVENT_TTL = timedelta(hours=24)
"""Events older than this are dropped; Kubernetes keeps them one hour, but a laptop sleeps longer."""
KEPT_TOMBSTONES = 10_000
"""Versions for which deletions stay visible to a watcher; a daemon reads them within milliseconds."""
APPLIED_METADATA = ("labels", "annotations", "ownerReferences")
"""Metadata that an apply replaces; the rest is given by the store."""


class SqliteCluster:
    """``ports.Cluster`` over a SQLite file, with a single field manager: what is applied replaces what was there."""

    def __init__(self, path: str | Path) -> None:
        with _translated():
            self._db = open_database(Path(path))
        self._watchers: set[asyncio.Event] = set()

    def close(self) -> None:
        """Close the file; the object cannot be used afterwards."""
        self._db.close()

    async def get(self, key: ObjectKey) -> Manifest | None:
        """The object, or None."""
        with _translated():
            return self._read(key)

    async def list(self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Objects of a kind by namespace and name, whose labels include ``labels``."""
        query = "SELECT manifest FROM objects WHERE kind = ? AND (? = '' OR namespace = ?) ORDER BY namespace, name"
        with _translated():
            rows = self._db.execute(query, (kind, namespace, namespace)).fetchall()
        wanted = (labels or {}).items()
        found = (json.loads(row[0]) for row in rows)
        return [each for each in found if wanted <= each["metadata"].get("labels", {}).items()]

    async def list_anew(self, kind: str, namespace: str, labels: Mapping[str, str]) -> Sequence[Manifest]:
        """The same: there is no cache."""
        return await self.list(kind, namespace, labels)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object, or return the one of that name as it is."""
        with self._write():
            key = key_of(manifest)
            current = self._read(key)
            if current is None:
                self._check(key, manifest, None)
                current = _merge(manifest, None, key)
                self._save(key, current)
        return current

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create, or replace everything but ``status`` and the metadata that the store gives."""
        with self._write():
            key = key_of(manifest)
            current = self._read(key)
            self._check(key, manifest, current)
            merged = _merge(manifest, current, key)
            if merged != current:
                self._save(key, merged)
        return merged

    async def delete(self, key: ObjectKey) -> None:
        """Delete the object and all that it owns, directly or not."""
        with self._write():
            current = self._read(key)
            doomed = [current] if current else []
            while doomed:
                victim = doomed.pop()
                doomed.extend(self._children(victim["metadata"]["uid"]))
                self._bury(victim)

    async def update_status(self, key: ObjectKey, status: Manifest, uid: str = "") -> None:
        """Replace ``status``; nothing is written when it is equal. Raises Conflict when the object is gone."""
        with self._write():
            current = self._read(key)
            if current is None or uid not in ("", current["metadata"]["uid"]):
                raise Conflict(f"{key} was deleted in between, so its status cannot be written.")
            if current.get("status") != status:
                self._save(key, {**current, "status": status})

    async def set_finalizers(self, key: ObjectKey, resource_version: str, finalizers: Sequence[str]) -> None:
        """Replace the finalizers; they hold nothing here, because a deletion takes the whole family at once."""
        with self._write():
            current = self._read(key)
            if current is None:
                return
            if current["metadata"]["resourceVersion"] != resource_version:
                raise Conflict(f"{key} changed in between; read it again.")
            if current["metadata"].get("finalizers", []) != [*finalizers]:
                current["metadata"]["finalizers"] = [*finalizers]
                self._save(key, current)

    async def record(self, event: EventRecord) -> None:
        """Count the event; equal ones share a row."""
        about, now = event.about, _timestamp()
        row = (about.namespace, about.kind, about.name, event.type, event.reason, event.message, now, now)
        with self._write():
            self._db.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE"
                " SET count = count + 1, last = excluded.last",
                row,
            )
            self._db.execute("DELETE FROM events WHERE last < ?", (_timestamp(-EVENT_TTL),))

    async def events(self, namespace: str, about: ObjectKey | None = None) -> Sequence[dict[str, Any]]:
        """Events, oldest first: ``kind, name, type, reason, message, count, first, last``; all namespaces if empty."""
        columns = ("namespace", "kind", "name", "type", "reason", "message", "count", "first", "last")
        query = f"SELECT {', '.join(columns)} FROM events WHERE (? = '' OR namespace = ?)"  # noqa: S608
        values: list[str] = [namespace, namespace]
        if about is not None:
            query += " AND kind = ? AND name = ?"
            values += [about.kind, about.name]
        with _translated():
            rows = self._db.execute(f"{query} ORDER BY last, rowid", values).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in rows]

    async def changes(self) -> AsyncIterator[ObjectKey]:
        """Keys of all objects, then of each one written or deleted by any process, in order and never ending."""
        wake = asyncio.Event()
        self._watchers.add(wake)
        try:
            with _translated():
                seen, seen_data = 0, self._data_version()
                pending = self._changed_since(seen, deleted=False)
            while True:
                for version, key in pending:
                    seen = max(seen, version)
                    yield key
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await wake.wait()
                with _translated():
                    data = self._data_version()
                    fresh = wake.is_set() or data != seen_data
                    pending = self._changed_since(seen, deleted=True) if fresh else []
                wake.clear()
                seen_data = data
        finally:
            self._watchers.discard(wake)

    def _data_version(self) -> int:
        """A number that changes when another connection commits."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _changed_since(self, seen: int, *, deleted: bool) -> Sequence[tuple[int, ObjectKey]]:
        query = "SELECT version, kind, namespace, name FROM objects WHERE version > ?"
        if deleted:
            query += " UNION ALL SELECT version, kind, namespace, name FROM tombstones WHERE version > ?"
        rows = self._db.execute(f"{query} ORDER BY version", (seen,) * (2 if deleted else 1)).fetchall()
        return [(version, ObjectKey(kind, namespace, name)) for version, kind, namespace, name in rows]

    @contextlib.contextmanager
    def _write(self) -> Iterator[None]:
        """One transaction that holds the write lock from its start, then a wake-up for watchers if it wrote."""
        with _translated():
            before = self._db.total_changes
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        if self._db.total_changes != before:
            for watcher in self._watchers:
                watcher.set()

    def _read(self, key: ObjectKey) -> Manifest | None:
        query = "SELECT manifest FROM objects WHERE kind = ? AND namespace = ? AND name = ?"
        row = self._db.execute(query, (key.kind, key.namespace, key.name)).fetchone()
        return json.loads(row[0]) if row else None

    def _children(self, uid: str) -> Sequence[Manifest]:
        query = "SELECT manifest FROM objects JOIN owners ON child = uid WHERE owner = ?"
        return [json.loads(row[0]) for row in self._db.execute(query, (uid,)).fetchall()]

    def _next_version(self) -> int:
        return int(self._db.execute("UPDATE counter SET value = value + 1 RETURNING value").fetchone()[0])

    def _save(self, key: ObjectKey, manifest: Manifest) -> None:
        version, meta = self._next_version(), manifest["metadata"]
        meta["resourceVersion"] = str(version)
        row = (key.kind, key.namespace, key.name, meta["uid"], version, json.dumps(manifest))
        self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)", row)
        self._db.execute("DELETE FROM owners WHERE child = ?", (meta["uid"],))
        links = [(owner["uid"], meta["uid"]) for owner in meta.get("ownerReferences", [])]
        self._db.executemany("INSERT OR IGNORE INTO owners VALUES (?, ?)", links)

    def _bury(self, manifest: Manifest) -> None:
        key, uid, version = key_of(manifest), manifest["metadata"]["uid"], self._next_version()
        self._db.execute("DELETE FROM objects WHERE uid = ?", (uid,))
        self._db.execute("DELETE FROM owners WHERE child = ?", (uid,))
        row = (key.kind, key.namespace, key.name, version)
        self._db.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?, ?)", row)
        self._db.execute("DELETE FROM tombstones WHERE version < ?", (version - KEPT_TOMBSTONES,))

    def _check(self, key: ObjectKey, manifest: Manifest, current: Manifest | None) -> None:
        """Raise Conflict unless the applier may write this object in the state it believes it to be in."""
        meta = manifest["metadata"]
        known = current["metadata"] if current else {}
        for field in ("uid", "resourceVersion"):
            if meta.get(field, known.get(field)) != known.get(field):
                raise Conflict(f"{key} changed or was deleted in between (its {field} differs); read it again.")
        if current and controller_of(manifest) != controller_of(current):
            holder = describe_controller(current)
            raise NameTaken(f"{key} exists already and belongs to {holder}; delete it or choose another name.")
        for owner in meta.get("ownerReferences", []):
            if not self._db.execute("SELECT 1 FROM objects WHERE uid = ?", (owner["uid"],)).fetchone():
                raise Conflict(f"{key} was not written: its owner {owner['kind']} {owner['name']} was deleted.")


def _merge(manifest: Manifest, current: Manifest | None, key: ObjectKey) -> Manifest:
    """The object after the apply; equal to ``current`` when nothing changes."""
    content = {name: value for name, value in manifest.items() if name not in ("metadata", "status")}
    applied = {name: manifest["metadata"][name] for name in APPLIED_METADATA if manifest["metadata"].get(name)}
    if current is None:
        kept: Manifest = {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": _timestamp()}
        kept |= {"namespace": key.namespace, "name": key.name}
        return json.loads(json.dumps({**content, "metadata": {**kept, **applied}}))  # type: ignore[no-any-return]
    kept = {name: value for name, value in current["metadata"].items() if name not in APPLIED_METADATA}
    if content != {name: value for name, value in current.items() if name not in ("metadata", "status")}:
        kept["generation"] += 1
    status = {"status": current["status"]} if "status" in current else {}
    return json.loads(json.dumps({**content, "metadata": {**kept, **applied}, **status}))  # type: ignore[no-any-return]


def _timestamp(shift: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) + shift).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ClusterUnavailable(f"The local database cannot be used just now: {error}.") from error
