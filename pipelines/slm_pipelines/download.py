"""Parallel ranged downloads that survive a killed process.

A file grows as a sparse ``data`` file beside a ``journal`` of the blocks that are written, four bytes per block.
After ``kill -9`` only blocks that were being written are asked for again: at most one per connection. Neither file
is trusted: the digest over the whole content decides whether it enters the store.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from slm_contract.reasons import Reason
from slm_contract.specs import ModelFile
from slm_pipelines.errors import Broken
from slm_pipelines.hub import CONNECTIONS
from slm_pipelines.store import CHUNK_BYTES

BLOCK_BYTES = 512 << 10
"""What the journal counts in: eight of them, one per connection, are fetched again after a kill."""
MIN_RANGE_BYTES = 8 << 20
MAX_RANGE_BYTES = 64 << 20
"""One request fetches a file's share of a connection, within these bounds: few requests, an even end."""
BREAKS_WITHOUT_PROGRESS = 5
"""Broken connections in a row, none of which brought a byte, before the step gives up."""
POLL_SECONDS = 0.2
RECORD = struct.Struct("<I")

Stream = Callable[[str, int, int], Iterator[bytes]]
"""(file name, begin, end) to the bytes between, in pieces."""


@dataclass
class Partial:
    """One file on its way into the store; holds its folder's lock from ``open`` to ``close``."""

    file: ModelFile
    folder: Path
    written: set[int] = field(default_factory=set)
    _handles: list[int] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """The growing file."""
        return self.folder / "data"

    @classmethod
    def open(cls, file: ModelFile, folder: Path, waiting: Callable[[], None]) -> Self:
        """Take the folder, waiting while another process fetches the same content, and read its journal."""
        lock = _lock(folder, waiting)
        partial = cls(file, folder)
        data = os.open(partial.data, os.O_RDWR | os.O_CREAT, 0o600)
        journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        partial._handles = [data, journal, lock]
        if os.fstat(data).st_size != file.size_bytes:
            os.ftruncate(journal, 0)
            os.ftruncate(data, file.size_bytes)
        records = (folder / "journal").read_bytes()
        whole = len(records) - len(records) % RECORD.size
        os.ftruncate(journal, whole)
        partial.written = {block for (block,) in RECORD.iter_unpack(records[:whole])}
        return partial

    def forget(self) -> None:
        """Start from nothing: what was written turned out to be wrong."""
        self.written.clear()
        os.ftruncate(self._handles[1], 0)

    def close(self, *, remove: bool) -> None:
        """Give the folder back; ``remove`` once its content is in the store."""
        if remove and self._handles:
            shutil.rmtree(self.folder, ignore_errors=True)
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def ranges(self) -> list[tuple[int, int]]:
        """What is still missing, as (begin, end) of one request each."""
        longest = max(MIN_RANGE_BYTES, min(MAX_RANGE_BYTES, self.file.size_bytes // CONNECTIONS))
        found: list[tuple[int, int]] = []
        for block in range(-(-self.file.size_bytes // BLOCK_BYTES)):
            if block in self.written:
                continue
            begin, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, self.file.size_bytes)
            if found and found[-1][1] == begin and end - found[-1][0] <= longest:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
        return found

    def write(self, offset: int, piece: bytes) -> None:
        """Write a piece, then note the block that it completes; pieces of a range come in order."""
        view, at = memoryview(piece), offset
        while view:
            count = os.pwrite(self._handles[0], view, at)
            view, at = view[count:], at + count
        last = self.file.size_bytes
        done = at // BLOCK_BYTES if at < last else -(-last // BLOCK_BYTES)
        for block in range(offset // BLOCK_BYTES, done):
            os.write(self._handles[1], RECORD.pack(block))

    def digests(self) -> tuple[str, str]:
        """``sha256:…`` and ``git-sha1:…`` of the content."""
        sha = hashlib.sha256()
        git = hashlib.sha1(b"blob %d\0" % self.file.size_bytes, usedforsecurity=False)
        with_git = self.file.digest.startswith("git-sha1:")
        with self.data.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                sha.update(piece)
                if with_git:
                    git.update(piece)
        return f"sha256:{sha.hexdigest()}", f"git-sha1:{git.hexdigest()}"


def _lock(folder: Path, waiting: Callable[[], None]) -> int:
    """An exclusive lock on the folder, even where the holder before us has just removed it."""
    while True:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
        with contextlib.suppress(FileNotFoundError):
            if (folder / "lock").stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


class Downloader:
    """Fetches the missing ranges of several files over a few connections."""

    def __init__(self, stream: Stream, report: Callable[[int], None]) -> None:
        self._stream = stream
        self._report = report
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.fetched_bytes = 0

    def fetch(self, partials: Sequence[Partial]) -> None:
        """Complete all of them; the first failure stops the others and is raised."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            jobs = [pool.submit(self._range, partial, *bounds) for partial in partials for bounds in partial.ranges()]
            try:
                self._watch(jobs)
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _watch(self, jobs: list[Future[None]]) -> None:
        pending = set(jobs)
        while pending:
            done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
            for job in done:
                job.result()
            self._report(self.fetched_bytes)

    def _range(self, partial: Partial, begin: int, end: int) -> None:
        breaks = 0
        while begin < end and not self._stop.is_set():
            before = begin
            try:
                for piece in _whole(self._stream(partial.file.name, begin, end), partial.file.name, end - begin):
                    partial.write(begin, piece)
                    begin += len(piece)
                    with self._lock:
                        self.fetched_bytes += len(piece)
                    if self._stop.is_set():
                        return
            except Broken:
                breaks = breaks + 1 if begin == before else 0
                if breaks >= BREAKS_WITHOUT_PROGRESS:
                    raise


def _whole(pieces: Iterator[bytes], name: str, length: int) -> Iterator[bytes]:
    """The pieces; raises Broken where they end too early, or a short stream would be asked for again for ever."""
    for piece in pieces:
        length -= len(piece)
        yield piece
    if length:
        raise Broken(Reason.SOURCE_UNAVAILABLE, f"{length} bytes of a range of {name} are missing.")
